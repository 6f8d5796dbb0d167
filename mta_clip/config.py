"""Every config key that mta-clip adds to Detectron2's, defined once: meaning, unit, source.

Where Mask2Former has a key, its name is used here; most new ones are under MODEL.CLIP, MODEL.PROMPT, MODEL.MTA,
MODEL.TAGCLIP, DATASETS and TEST. Modules read a cfg only in `from_config`, and each can be built without one.

Sources: [M2F] Mask2Former (CVPR 2022), [MTA] MTA-CLIP (ECCV 2024, arXiv 2407.21654), [Tag] TagCLIP's released code
(TPAMI 2024, arXiv 2304.07547), [Dense] DenseCLIP (CVPR 2022), [FC] FC-CLIP (NeurIPS 2023), [D2]
a key of Detectron2 with another default; its own is given.
"""

import functools
import operator
from typing import Any

import torch
from detectron2.config import CfgNode as CN


def add_mta_clip_config(cfg: CN) -> None:
    """Adds all keys of this project, with defaults, to a Detectron2 config (in place)."""
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # [D2] "cuda"
    cfg.MODEL.META_ARCHITECTURE = "MTACLIP"  # MTACLIP | TagCLIP
    # RGB 0..255 of each class in pictures; [] = `stuff_colors` of the training dataset if it has exactly these classes
    cfg.MODEL.CLASS_COLORS = []
    cfg.MODEL.WEIGHTS_SKIP = []  # shell patterns of parameters not taken from MODEL.WEIGHTS, e.g. ["*class_embed*"]
    # True: MODEL.WEIGHTS has other classes. Those that are not in it by name start fresh, all else is kept; see
    # docs/checkpoints.md
    cfg.MODEL.WEIGHTS_RESET_CLASSES = False
    # torch.compile of the networks: takes minutes at the first call, and again when image sizes change; on a CPU it
    # needs a C++ compiler
    cfg.MODEL.COMPILE = False
    # True: weights of convolutions have channels last in memory, as MTA-CLIP's maps always have, which can spare a
    # conversion at each call; numbers are the same up to rounding
    cfg.MODEL.CHANNELS_LAST = False
    cfg.MODEL.PIXEL_MEAN = [
        123.675,
        116.28,
        103.53,
    ]  # ImageNet, RGB, 0..255: what [M2F], [MTA], [Tag] all use
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    _add_clip(cfg)
    _add_prompt(cfg)
    _add_mask_former(cfg)
    _add_sem_seg_head(cfg)
    _add_mta(cfg)
    _add_tagclip(cfg)
    _add_input(cfg)
    _add_datasets(cfg)
    _add_solver(cfg)
    _add_test(cfg)


def get_cfg() -> CN:
    """A fresh Detectron2 config with this project's keys in it."""
    from detectron2.config import get_cfg as get_detectron2_cfg

    cfg = get_detectron2_cfg()
    add_mta_clip_config(cfg)
    return cfg


def value_of(cfg: CN, key: str) -> Any:
    """The value of a key such as "SOLVER.BASE_LR"; KeyError if there is none."""
    return functools.reduce(operator.getitem, key.split("."), cfg)


def _add_clip(cfg: CN) -> None:
    cfg.MODEL.BACKBONE.NAME = "CLIPImageEncoder"  # a Detectron2 backbone, e.g. build_resnet_backbone; TagCLIP: below
    cfg.MODEL.BACKBONE.FREEZE_AT = 0  # [D2] stages frozen from the stem on; 0 = none, as in [M2F] and [MTA]
    cfg.MODEL.CLIP = CN()
    cfg.MODEL.CLIP.NAME = "RN50"  # open_clip architecture; its text tower is used with any image backbone
    cfg.MODEL.CLIP.PRETRAINED = "openai"  # open_clip tag (downloads), path of a local weights file, or "" = random
    cfg.MODEL.CLIP.QUICK_GELU = True  # x * sigmoid(1.702 x), what OpenAI's weights were trained with
    # The image tower by itself: open_clip architecture, or timm:NAME (such as timm:swin_tiny_patch4_window7_224); "" =
    # NAME's. Detectron2's backbones are chosen by MODEL.BACKBONE.NAME
    cfg.MODEL.CLIP.IMAGE_NAME = ""
    # Its weights: as PRETRAINED; of timm:NAME, "timm" (downloads) or a local file. "" = PRETRAINED if it is NAME's,
    # else random. QUICK_GELU is NAME's; another image tower has it if its architecture says so (ViT-B-16-quickgelu).
    # MODEL.PIXEL_MEAN and PIXEL_STD have to be those of the weights; a warning names them where they differ much
    cfg.MODEL.CLIP.IMAGE_PRETRAINED = ""
    cfg.MODEL.CLIP.IMAGE_DROP_PATH = 0.0  # stochastic depth of timm:NAME, rate of its last block, 0..1; [M2F] Swin: 0.3
    # The text tower by itself: open_clip architecture, or hf:<folder or id> of a Hugging Face text encoder; "" = NAME's
    cfg.MODEL.CLIP.TEXT_NAME = ""
    # Its weights: as PRETRAINED; "" = PRETRAINED if it is NAME's, its own if it is hf:..., else random; "random" =
    # hf:... without its own. QUICK_GELU is NAME's; another text tower has it if its architecture says so
    # (ViT-B-16-quickgelu)
    cfg.MODEL.CLIP.TEXT_PRETRAINED = ""
    cfg.MODEL.CLIP.TEXT_POOLING = ""  # of hf:...: mean | cls | last; "" = as sentence-transformers stored it, else mean
    # Gradient checkpointing: the text tower's activations, whose memory grows with classes times contexts, are computed
    # again in the backward pass instead of being kept
    cfg.MODEL.CLIP.TEXT_CHECKPOINTING = False
    cfg.MODEL.CLIP.BN_MODE = "train"  # BatchNorm of the image tower: train [MTA] | frozen | sync
    # 0-based ViT blocks whose maps become strides 4, 8, 16, 32; [] = the last block of each quarter of the depth, such
    # as 2,5,8,11 of 12 blocks, of which [Dense] and [MTA] use 3,5,7,11. Blocks after the last one named are dropped
    cfg.MODEL.CLIP.VIT_FEATURE_BLOCKS = []
    cfg.MODEL.CLIP.VIT_NECK_NORM = "GN"  # norm between the two deconvolutions to stride 4: GN | SyncBN [Dense] [MTA]


def _add_prompt(cfg: CN) -> None:
    cfg.MODEL.PROMPT = CN()
    # ContextPromptLearner: Z learned contexts [MTA section on Mask-Text Prompt Learning];
    # TemplatePrompt: hand-written templates, nothing learned; "": no text at all (the Mask2Former baseline).
    cfg.MODEL.PROMPT.NAME = "ContextPromptLearner"
    cfg.MODEL.PROMPT.NUM_CONTEXTS = 3  # Z, prompts per class [MTA]
    cfg.MODEL.PROMPT.CONTEXT_LENGTH = 8  # learned vectors per context [MTA] [Dense]
    cfg.MODEL.PROMPT.INIT_STD = 0.02  # std of the truncated normal that contexts start from; the [MTA] code has 1.0
    # One text per context, such as "a photo of a", whose token embeddings its last vectors start as (CoOp); [] = none
    cfg.MODEL.PROMPT.INIT_TEMPLATES = []
    # Of TemplatePrompt; {} stands for the class name. An entry can also name a set, whose prompts are averaged: vild |
    # imagenet80 | single; see mta_clip/modeling/text/templates
    cfg.MODEL.PROMPT.TEMPLATES = ["a photo of a {}."]
    # How a name of several synonyms counts at inference, such as "person;man": max = by the best of them (in MTA-CLIP
    # not with the names of its training) | mean = by the mean of their text, as in training. TagCLIP also trains so
    cfg.MODEL.PROMPT.SYNONYMS = "max"
    cfg.MODEL.PROMPT.NO_OBJECT_NAME = "none"  # text of the no-object row [MTA]
    cfg.MODEL.PROMPT.CLASS_NAMES = []  # [] = `stuff_classes` of the first training dataset


def _add_mask_former(cfg: CN) -> None:
    cfg.MODEL.MASK_FORMER = CN()
    node = cfg.MODEL.MASK_FORMER
    # MaskTextDecoder [MTA] | MultiScaleMaskedTransformerDecoder [M2F], the text-free baseline
    node.TRANSFORMER_DECODER_NAME = "MaskTextDecoder"
    node.NUM_OBJECT_QUERIES = 100
    node.HIDDEN_DIM = 256
    node.NHEADS = 8
    node.DIM_FEEDFORWARD = 2048  # of the transformer decoder
    node.DEC_LAYERS = 10  # predictions, one of them before the first layer: 10 = 9 layers [M2F]
    node.DROPOUT = 0.0  # of the pixel decoder's transformer encoder
    node.ENFORCE_INPUT_PROJ = False  # 1x1 projection of the memories even if their width is already HIDDEN_DIM
    node.SIZE_DIVISIBILITY = 32  # images are padded (zeros after normalisation, right and bottom) to a multiple of it
    # Losses; the same three weights are the matching costs.
    node.CLASS_WEIGHT = 2.0
    node.MASK_WEIGHT = 5.0
    node.DICE_WEIGHT = 5.0
    node.NO_OBJECT_WEIGHT = 0.1
    node.DEEP_SUPERVISION = True
    node.SUPERVISE_INITIAL = True  # supervise the prediction before the first layer: [M2F] True, the [MTA] code False
    # Divisor of mask and dice losses: num_masks [M2F] | class_weight_sum, which the [MTA] code uses by accident
    node.NORMALIZER = "num_masks"
    # Points on ignored pixels: negative = background of every mask [M2F] [MTA]; excluded = not part of the loss
    node.IGNORED_PIXELS = "negative"
    node.TRAIN_NUM_POINTS = 12544
    node.OVERSAMPLE_RATIO = 3.0
    node.IMPORTANCE_SAMPLE_RATIO = 0.75


def _add_sem_seg_head(cfg: CN) -> None:
    node = cfg.MODEL.SEM_SEG_HEAD
    node.NAME = "MaskTextHead"  # TagCLIP: TrustyHead
    node.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    # Classes of the model. Left at these defaults, both follow the class names and the training dataset; see
    # mta_clip/data/model_classes.py
    node.NUM_CLASSES = 150  # [D2] 54
    node.IGNORE_VALUE = 255  # label of pixels without a class
    node.CONVS_DIM = 256
    node.MASK_DIM = 256
    node.NORM = "GN"  # of the pixel decoder's convolutions towards stride 4; its other norms are always GN
    node.NORM_GROUPS = 32  # groups of every GroupNorm in the pixel decoder
    node.PIXEL_DECODER_NAME = "MSDeformAttnPixelDecoder"
    node.TRANSFORMER_ENC_LAYERS = 6
    node.TRANSFORMER_ENC_DIM_FEEDFORWARD = 1024  # [M2F] hard-codes it
    node.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = ["res3", "res4", "res5"]
    node.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = 4
    node.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS = 8
    # How the deformable attention samples. triton: a kernel for NVIDIA GPUs, whose gradients are not deterministic |
    # embedding_bag: sparse sums, on any device | grid_sample: PyTorch's, the definition
    # auto: embedding_bag, on Apple's GPUs (mps) grid_sample
    node.SAMPLING = "auto"
    # Gradient checkpointing of the layers of pixel decoder and transformer decoder: their activations are computed
    # again in the backward pass instead of being kept
    node.CHECKPOINTING = False
    # True: the whole pixel decoder runs in float32 even under AMP [M2F]; False: its linear layers and convolutions
    # follow AMP, and only the deformable sampling stays in float32
    node.PIXEL_DECODER_FULL_PRECISION = True


def _add_mta(cfg: CN) -> None:
    cfg.MODEL.MTA = CN()
    node = cfg.MODEL.MTA
    node.SIMILARITY_LOSS = "MixNeg"  # MixNeg | SeparateNeg | AllPos [MTA], or one of your own
    node.SIMILARITY_WEIGHT = 1.0  # weight of L_sim; 0 removes the loss and every parameter that only it would train
    # Weight of a loss that is 0 if masks choose all contexts equally often, 1 if always the same one; 0 = none [MTA]
    node.CONTEXT_BALANCE = 0.0
    # tau of L_sim: exp(cosine / tau); 1 = none, as in the [MTA] code; docs/experiments.md: 0.07 is better from scratch
    node.TEMPERATURE = 0.07
    node.LEARN_TEMPERATURE = False  # tau becomes a parameter, initialised to TEMPERATURE (CLIP's logit scale)
    node.GAMMA_INIT = 1e-4  # of the residual text update, text' = text + gamma * u [Dense] [MTA]
    # Weight of the cross-entropy of pixel-text score maps (mta_clip/modeling/pixel_text.py): 0.4 [Dense] | 0 = no such
    # maps. For [Dense]'s alignment alone, set SIMILARITY_WEIGHT to 0 and choose [M2F]'s transformer decoder
    node.PIXEL_TEXT_WEIGHT = 0.0
    node.TEXT_QUERIES = True  # text rows take part in the decoder as queries; False: ablation
    # How masks are classified at inference: linear [MTA] | text (similarity to any names) | ensemble of both
    node.CLASSIFIER = "linear"
    node.ENSEMBLE_WEIGHT = 0.5  # weight of text in the geometric mean of `ensemble`, 0..1
    # A second opinion at inference: CLIP's frozen image tower, pooled under each mask, against the names in templates.
    # It is joined with the class probability in a geometric mean, with CLIP's share as exponent [FC]. Costs a copy of
    # the tower (also in training and in checkpoints) and one more pass through it
    node.FROZEN_CLIP = CN()
    node.FROZEN_CLIP.ENABLED = False
    node.FROZEN_CLIP.SEEN_EXPONENT = 0.4  # of names with labels in training [FC]
    node.FROZEN_CLIP.UNSEEN_EXPONENT = 0.8  # of all others [FC]
    node.FROZEN_CLIP.TEMPLATES = ["vild"]  # see MODEL.PROMPT.TEMPLATES; all are averaged
    node.TEXT_TEMPERATURE = 0.07  # softmax temperature of `text` if training used none


def _add_tagclip(cfg: CN) -> None:
    # TagCLIP needs MODEL.BACKBONE.NAME PromptedImageEncoder and MODEL.SEM_SEG_HEAD.NAME TrustyHead. It also reads
    # MODEL.CLIP (a ViT), MODEL.PROMPT.TEMPLATES (averaged) and DATASETS.UNSEEN_CLASSES.
    cfg.MODEL.TAGCLIP = CN()
    node = cfg.MODEL.TAGCLIP
    node.NUM_PROMPTS = 10  # visual prompts per ViT block: 10 (VOC) | 100 (COCO-Stuff) [Tag]
    node.IMAGE_SIZE = [512, 512]  # height, width that the position table is resized to once: the training crop [Tag]
    # True: the class embedding is added to the ViT's class token twice (token and position), as in the released code
    node.DOUBLE_CLASS_EMBEDDING = True
    # What a query is made of: terms joined by _; q = text, s = image token, qms = their product. qms_q [Tag]; its code
    # also has s_q and q
    node.DESCRIPTOR = "qms_q"
    node.NHEADS = 8  # of the decoder
    node.DEC_LAYERS = 3  # of the decoder; the last one only scores
    node.SELF_ATTENTION = True  # queries attend to each other in the first decoder layer [Tag]; False: ZegCLIP
    node.DROPOUT = 0.1  # of visual prompts and decoder [Tag]
    # True: keep the parameters that never get a gradient, as released: 11,720,448 trainable ones (10 prompts) instead
    # of 9,091,328; training on several processes then needs SOLVER.FIND_UNUSED_PARAMETERS
    node.KEEP_UNUSED_PARAMETERS = False
    node.TRUSTY_TOKEN = True  # False: no trusty map (ZegCLIP)
    node.PROTOCOL = ""  # old name of DATASETS.PROTOCOL: load_config translates it, nothing else reads it
    node.PSEUDO_LABELS = True  # in transductive training; False, as released: unseen classes count as absent everywhere
    node.PSEUDO_LABELS_FROM_ITER = 0  # transductive training is inductive before this iteration
    # Where the target of the trusty map is 1. seen = pixels labelled with a seen class: strictly inductive. unseen =
    # pixels of unseen classes, as released; inductive training hides their labels, so this needs DATASETS.PROTOCOL
    # inductive_released
    node.TRUSTY_TARGET = "seen"
    node.TRUSTY_LOSS = "focal"  # focal [Tag] | dice
    node.MASK_WEIGHT = 20.0  # focal loss of all class maps [Tag]; ZegCLIP has 100
    node.DICE_WEIGHT = 1.0
    node.TRUSTY_WEIGHT = 10.0
    # Whose scores the trusty map weights at inference: none | seen | unseen | both [Tag]
    node.TRUSTY_EVAL = "both"
    node.GAMMA = 0.1  # subtracted from the probabilities of seen classes: 0.1 inductive | 0 otherwise [Tag]


def _add_input(cfg: CN) -> None:
    cfg.INPUT.FORMAT = "RGB"  # [D2] "BGR"
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_semantic"  # [M2F]
    cfg.INPUT.COLOR_AUG_SSD = True  # brightness, contrast, saturation, hue jitter as in SSD [M2F]
    cfg.INPUT.SIZE_DIVISIBILITY = -1  # > 0: crops are padded up to this side length, in pixels [M2F]
    # What such crops are padded with: grey = 128 before normalisation [M2F] | mean = MODEL.PIXEL_MEAN, which is zero
    # after normalisation [MTA]. Batches, and images at inference, are always padded with zeros after normalisation
    cfg.INPUT.PADDING = "grey"
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [512, 512]  # height, width
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0  # crops are redrawn while one class covers more [M2F]; 1 = off
    # [D2] True. All crops have one size; grouping would make batches depend on the number of workers and on resuming
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False


def _add_datasets(cfg: CN) -> None:
    # Folders of images and label maps, registered from the config alone; see mta_clip/data/datasets/folder.py
    cfg.DATASETS.FOLDERS = []
    cfg.DATASETS.UNSEEN_CLASSES = []  # names held out of training (zero-shot); [] = all classes are seen
    # What training may see of the labels of unseen classes, for every model; see mta_clip/data/zero_shot.py:
    # inductive = nothing: they become the ignore label as they are read. In MTA-CLIP the names stay text queries and
    #   rows of the linear classifier, trained as absent; only MODEL.MTA.CLASSIFIER text can recognise them
    # transductive (TagCLIP only) = that a pixel is of an unseen class, but not of which; it gets a pseudo-label
    # supervised = everything; UNSEEN_CLASSES is then used only for reporting
    # inductive_released = everything, but only for MODEL.TAGCLIP.TRUSTY_TARGET unseen, as in TagCLIP's released code
    cfg.DATASETS.PROTOCOL = "inductive"


def _add_solver(cfg: CN) -> None:
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.FUSED = False  # True: PyTorch's fused optimizer step, one kernel per group; the same up to rounding
    # Parts in which a step takes its batch, one after the other, to save memory: their gradients are added up.
    # IMS_PER_BATCH stays the batch of a step, which is the same up to rounding, except for what depends on the images
    # of a part: padding to one size, random points, BatchNorm in BN_MODE train and sync, normalisers of pseudo-labels
    cfg.SOLVER.ACCUMULATE = 1
    cfg.SOLVER.BASE_LR = 1e-4
    cfg.SOLVER.WEIGHT_DECAY = 0.05
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0  # nn.Embedding modules [M2F], position tables, contexts, gamma
    # [shell pattern of parameter names, weight decay] rows, which come before the three keys above; the first that fits
    # decides, e.g. [["backbone.*", 0.02]] to decay the norms of the image encoder as well [MTA]
    cfg.SOLVER.WEIGHT_DECAY_BY_NAME = []
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1  # lr of the image encoder relative to BASE_LR
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0  # [D2 DeepLab] the lr never falls below this share of BASE_LR
    cfg.SOLVER.POLY_LR_MIN = 0.0  # absolute lr that the poly decay ends at: mmcv's min_lr, 1e-6 in [Tag]
    # True: the poly decay starts when the warm-up ends [MTA]; False: at iteration 0 [D2 DeepLab] [Tag]
    cfg.SOLVER.POLY_LR_AFTER_WARMUP = False
    cfg.SOLVER.WARMUP_FACTOR = 1.0
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"  # one L2 norm over all trainable parameters [M2F]
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.01
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = 2.0
    # Steps in a row that are skipped, as their loss or gradients are infinite or NaN, before training stops. What led
    # to such a step is kept in OUTPUT_DIR/non_finite.pth; see mta_clip/engine/non_finite.py
    cfg.SOLVER.MAX_SKIPPED_STEPS = 0
    # Exponential moving average of the weights. It is what evaluations use, and the model that checkpoints hold, which
    # keep the weights in training beside it, for --resume
    cfg.SOLVER.EMA = CN()
    cfg.SOLVER.EMA.ENABLED = False
    cfg.SOLVER.EMA.DECAY = 0.999  # per step, as in Detectron2's MODEL_EMA; less in the first steps
    cfg.SOLVER.AMP.DTYPE = "float16"  # float16 (loss scaler, CUDA) | bfloat16 (no scaler, any device)
    # True: the lr scales linearly, and all counts of training steps inversely, with IMS_PER_BATCH relative to
    # REFERENCE_BATCH; see mta_clip/engine/batch_scaling.py
    cfg.SOLVER.SCALE_TO_BATCH = False
    cfg.SOLVER.REFERENCE_BATCH = 16
    cfg.SOLVER.LOG_PERIOD = 20  # iterations between two progress lines (and JSON and TensorBoard entries)
    # True: distributed training accepts trainable parameters that a step does not use, at some cost in time
    cfg.SOLVER.FIND_UNUSED_PARAMETERS = False


def _add_test(cfg: CN) -> None:
    # Short sides of test-time augmentation as ratios of INPUT.MIN_SIZE_TEST; [] = TEST.AUG.MIN_SIZES in pixels, as in
    # Detectron2. [MTA] has 0.5, 0.75, 1, 1.25, 1.5, 1.75
    cfg.TEST.AUG.RATIOS = []
    # Data type of autocast at inference: float32 | bfloat16 (any device) | float16. It includes the pixel decoder if
    # MODEL.SEM_SEG_HEAD.PIXEL_DECODER_FULL_PRECISION is False. Sums over queries, and so the scores, have the data type
    # of the mask logits.
    cfg.TEST.PRECISION = "float32"
    # Metric by whose highest value model_best.pth is kept: "sem_seg/mIoU", with several datasets in DATASETS.TEST
    # "<dataset>/sem_seg/mIoU"; "" = no model_best.pth. TEST.EVAL_PERIOD says how often models are compared
    cfg.TEST.KEEP_BEST = ""
    cfg.TEST.SLIDING_WINDOW = CN()
    cfg.TEST.SLIDING_WINDOW.ENABLED = False
    cfg.TEST.SLIDING_WINDOW.SIZE = [512, 512]  # height, width in pixels of the resized image
    cfg.TEST.SLIDING_WINDOW.STRIDE = [341, 341]  # [MTA]; [Tag] has 426
    cfg.TEST.SLIDING_WINDOW.BATCH = 4  # windows per forward pass
    cfg.TEST.SLIDING_WINDOW.BLEND = "uniform"  # weights at overlaps: uniform | linear (less towards a window's border)
    cfg.TEST.SEM_SEG = CN()
    # True: models return label maps, computed a few rows at a time, instead of (C, H, W) scores, so that memory stays
    # bounded on large images. Scores that are still kept: with windows, the rows that one row of windows covers; with
    # TEST.AUG, one map at each of its sizes
    cfg.TEST.SEM_SEG.LABEL_MAPS_ONLY = False
    cfg.TEST.SEM_SEG.BOUNDARY_IOU = False
    cfg.TEST.SEM_SEG.BOUNDARY_DILATION = 0.02  # width of the boundary band, as a share of the image diagonal
    cfg.TEST.SEM_SEG.SAVE_PREDICTIONS = "none"  # none | png (label maps) | rle (COCO results)
