"""The datasets that mta_clip knows by name. Importing this registers them; their files are read only when used."""

from . import ade20k, camvid, cityscapes, coco_stuff, pascal_context, shapes, voc2012

for _dataset in (shapes, camvid, ade20k, cityscapes, voc2012, coco_stuff, pascal_context):
    _dataset.register()
