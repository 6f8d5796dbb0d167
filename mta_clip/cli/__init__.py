"""The commands of `mta-clip`: one module each, with DESCRIPTION, `add_arguments(parser)` and `run(args)`.

Heavy libraries are imported where they are used, so that `--help` answers at once.
"""
