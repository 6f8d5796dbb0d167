"""The commands of `mta-clip`: one module each, with DESCRIPTION, `add_arguments(parser)` and `run(args)`.

Heavy libraries are imported where they are used, after what can be known without them has been checked: `--help`, a
missing extra and a wrong name answer at once.
"""
