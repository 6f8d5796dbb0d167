"""The parts of TagCLIP (TPAMI 2024, arXiv 2304.07547): generalised zero-shot segmentation with a trusty token.

A frozen CLIP ViT with deep visual prompts gives an image token and a patch map; class texts, described relative to the
image token, and one learned trusty token query the patches; the attention scores of the last decoder layer are the
masks, and those of the trusty token say where the training classes can be trusted.
"""
