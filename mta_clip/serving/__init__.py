"""`mta-clip serve`: images over HTTP, segmented in batches.

`server` puts the parts together, and is with `gate` the only module that knows the HTTP libraries. A request passes
`gate` (is there room?), `requests` (is it an image, are the parameters right?), `batches` (in the model's process) and
`answers`.
"""
