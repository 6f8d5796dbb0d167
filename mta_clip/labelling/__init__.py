"""Labels any number of images, in several processes or on a Ray cluster; what is done is not done again.

`job` cuts the images that `inputs` finds into blocks, and an engine (`local`, `ray_engine`) hands them to `worker`s,
which write label maps (`shards`) and rows (`index`).
"""
