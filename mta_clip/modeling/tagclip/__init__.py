"""The parts of TagCLIP (TPAMI 2024, arXiv 2304.07547): generalised zero-shot segmentation with a trusty token.

A frozen CLIP ViT with deep visual prompts computes an image token and a patch map. Class texts, combined with the image
token, and one learned trusty token are the queries of a decoder that attends to the patches. The attention scores of
its last layer are the masks; those of the trusty token predict where the seen classes can be trusted.
"""
