"""FCOS R18, which Detectron2 has as a LazyConfig only, learns from the zoo's RetinaNet R101 3x.

The supplement's schedule: 180,000 iterations, batch 8, a tenth of the rate at 120,000 and 160,000.
"""

from fvcore.common.param_scheduler import MultiStepParamScheduler

from fam_det.modeling.lazy import build_teacher, distill, group_norm
from fam_det.training.evaluation import FastCOCOEvaluator

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.total_batch_size = 8
dataloader.train.mapper.image_format = "RGB"
dataloader.train.mapper.use_instance_mask = False
dataloader.evaluator._target_ = FastCOCOEvaluator
dataloader.evaluator.output_dir = "${train.output_dir}/inference"
# To register before anything else: [name, annotation file, image folder], as DATASETS.COCO.
datasets = {"coco": []}

model = L(distill)(
    student=model_zoo.get_config("common/models/fcos.py").model,
    teacher=L(build_teacher)(
        config="COCO-Detection/retinanet_R_101_FPN_3x.yaml",
        student_format="${dataloader.train.mapper.image_format}",
        weights="auto",
        opts=[],
    ),
    # FCOS makes p6 and p7 from p5, RetinaNet from res5.
    distiller={
        "levels": ["p3", "p4", "p5"],
        "name": "LayerToLayerDistiller",
        "loss": "spectral_correlation",
        "loss_weight": 18.0,
        "fam": {"branches": ["global"]},
    },
)
model.student.backbone.bottom_up.stages.depth = 18
del model.student.backbone.bottom_up.stages.stride_in_1x1  # a basic block has no 1x1
model.student.backbone.bottom_up.freeze_at = 2
model.student.head.norm = group_norm
# Of torchvision's weights.
model.student.pixel_mean = [123.675, 116.280, 103.530]
model.student.pixel_std = [58.395, 57.120, 57.375]

optimizer = model_zoo.get_config("common/optim.py").SGD
optimizer.lr = 0.005
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[120_000, 160_000, 180_000]
    ),
    warmup_length=1000 / 180_000,
    warmup_method="linear",
    warmup_factor=0.001,
)

train = model_zoo.get_config("common/train.py").train
train.output_dir = "./output/retinanet_R_101_to_fcos_R_18_FPN"
train.max_iter = 180_000
train.init_checkpoint = "torchvision://resnet18"
