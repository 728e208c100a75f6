"""Configs in Python: the distilled detector as a node, and tools/train_net.py with one."""

import ast
import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.core import LayerToLayer, hierarchical_context_loss
from fam_det.modeling import DistilledDetector, FeatureDistiller, FrozenTeacher
from fam_det.modeling.lazy import build_teacher, distill
from fam_det.modeling.teacher import build_teacher_detector
from fam_det.training.detection import LazyTrainer, instantiate_ours, load_lazy_config
from fam_det.training.evaluation import FastCOCOEvaluator
from tests.modeling.small_detector import small_config
from tests.modeling.test_detectors import batch, fcos
from tests.tools.test_train_net import check_run, train_net

from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.events import EventStorage

CONFIG = "configs/LazyConfig/retinanet_R_101_to_fcos_R_18_FPN.py"
TEACHER = """
from tests.modeling.test_detectors import fcos
model = fcos(24)
dataloader = {"train": {"mapper": {"image_format": "RGB"}}}
train = {"init_checkpoint": "somewhere.pth"}
"""


def test_nodes_by_hand_make_the_detector_that_distill_makes() -> None:
    teacher = L(FrozenTeacher)(
        detector=fcos(24),
        weights="",
        pixel_mean=[103.53, 116.28, 123.675],
        pixel_std=[1.0, 1.0, 1.0],
        input_format="BGR",
        student_format="RGB",
    )
    by_hand = L(DistilledDetector)(
        student=fcos(16),
        teacher=teacher,
        distiller=L(FeatureDistiller)(
            levels=["p3", "p4"],
            transform=L(LayerToLayer)(
                student_channels=[16, 16], teacher_channels=[24, 24], relu=False
            ),
            loss=hierarchical_context_loss,
        ),
        strides={"p3": 8, "p4": 16},
    )
    options = {"name": "LayerToLayerDistiller", "levels": ["p3", "p4"], "warmup_iters": 0}
    made = L(distill)(student=fcos(16), teacher=teacher, distiller=options)
    losses = []
    for node in (by_hand, made):
        torch.manual_seed(0)
        model = instantiate(node).train()
        model.load_teacher()
        with EventStorage(0):
            losses.append(model(batch()))
    assert losses[0].keys() == losses[1].keys() >= {"loss_distill", "loss_fcos_cls"}
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


def random_teacher() -> FrozenTeacher:
    options = {"pixel_mean": [0.0] * 3, "pixel_std": [1.0] * 3, "weights": ""}
    return FrozenTeacher(instantiate(fcos(24)), **options, input_format="BGR", student_format="BGR")


def test_a_thin_student_reads_the_teachers_heads_in_a_basis() -> None:
    student = fcos(16)
    student.head.conv_dims = [24]  # the teacher's, behind a first layer that reads 16 channels
    teacher = random_teacher()
    options = {"name": "LayerToLayerDistiller", "fam": {"init": "identity"}}
    model = distill(
        student=instantiate(student),
        teacher=teacher,
        distiller=options,
        inherit=["head"],
        basis_images=1,
    )
    model.load_teacher([batch()])
    others = teacher.detector.state_dict()
    for name, weight in model.head.state_dict().items():
        other = others[f"head.{name}"]
        if weight.shape != other.shape:
            other = torch.einsum("ochw,ck->okhw", other, model.distiller.basis)
        torch.testing.assert_close(weight, other)


def test_options_are_the_keys_of_the_distiller_in_lower_case() -> None:
    teacher = random_teacher()
    options = {"loss_weight": 3, "mid_channels": 8, "fam": {"branches": ["global"], "cutoff": 0.2}}
    model = distill(student=instantiate(fcos(16)), teacher=teacher, distiller=options)
    assert model.loss_weight == 3.0
    assert model.strides == {f"p{i}": 2**i for i in range(3, 8)}
    with pytest.raises(ValueError, match="distiller.fam: got 'grit', expected one of.*'grid'"):
        distill(student=model.student, teacher=teacher, distiller={"fam": {"grit": 8}})
    with pytest.raises(ValueError, match=r"MODEL.DISTILLER.LOSS_WEIGHT"):
        distill(student=model.student, teacher=teacher, distiller={"loss_weight": "high"})


def test_config_in_python_is_a_teacher_for_yaml_too(tmp_path: Path) -> None:
    (tmp_path / "teacher.py").write_text(TEACHER)
    path = str(tmp_path / "teacher.py")
    opts = "['model.num_classes=7']"
    cfg = small_config("MODEL.TEACHER.CONFIG", path, "MODEL.TEACHER.OPTS", opts)
    described = build_teacher_detector(cfg)
    assert described.detector.num_classes == 7
    assert (described.input_format, described.weights) == ("RGB", "somewhere.pth")
    assert described.pixel_mean == pytest.approx([103.53, 116.28, 123.675])
    teacher = build_teacher(config=path, student_format="RGB", weights="")
    assert not teacher.flip_channels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train = {}", "MODEL.TEACHER.CONFIG: .*teacher.py defines .'train'., expected 'model'"),
        (TEACHER.replace("dataloader", "_"), "MODEL.TEACHER.CONFIG: .*image_format.*'RGB'"),
    ],
)
def test_unusable_teacher_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "teacher.py").write_text(text)
    with pytest.raises(ValueError, match=message):
        build_teacher(config=str(tmp_path / "teacher.py"), student_format="RGB")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.device"], "command line: got 'train.device', expected path.key=value"),
        (["optimiser.lr=1"], "command line: got 'optimiser.lr=1'.*'optimizer'"),
        (["train.max_iter=[1"], r"command line: .*\[1"),
        (["train.device=cuda"], "train.device: got 'cuda'.*train.device=cpu"),
        (["train.device=cpu", "train.amp.enabled=true"], "train.amp.enabled: got True on the CPU"),
        (
            ["train.device=cpu", "dataloader.test.dataset.names=cells_val"],
            "dataloader.test.dataset.names: got 'cells_val', which is not registered; name it in d",
        ),
        (["train.device=cpu", "datasets.coco=[[a,b,c]]"], "DATASETS.COCO: a: the image folder 'c'"),
    ],
)
def test_wrong_override_names_the_key(overrides: list[str], message: str) -> None:
    if "cuda" in overrides[0] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=message):
        load_lazy_config(CONFIG, overrides)


def test_missing_node_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text("model = dict(a=1)\n")
    with pytest.raises(ValueError, match="^dataloader: missing, expected the nodes .*'optimizer'"):
        load_lazy_config(str(tmp_path / "config.py"), [])


def test_each_config_of_a_process_has_its_own_files_under_a_shared_name(
    cells: str, tmp_path: Path
) -> None:
    (train, _) = ast.literal_eval(cells)
    content = json.loads(Path(train[1]).read_text())
    content["annotations"] = content["annotations"][:2]  # an image without objects is left out
    (tmp_path / "two.json").write_text(json.dumps(content))
    names = ["dataloader.train.dataset.names=bccd_train", "train.device=cpu"]
    names += ["dataloader.test.dataset.names=bccd_train"]
    configs = [
        load_lazy_config(CONFIG, [f"datasets.coco={[['bccd_train', file, train[2]]]}", *names])
        for file in (train[1], str(tmp_path / "two.json"))
    ]
    assert [len(LazyTrainer.build_train_loader(cfg).records) for cfg in configs] == [6, 2]
    node = L(COCOEvaluator)(dataset_name="bccd_train")
    assert [type(x) for x in instantiate_ours(OmegaConf.create([node]))] == [FastCOCOEvaluator]


@pytest.mark.parametrize("masks", [False, True])
def test_a_polygon_of_two_points_costs_no_box_where_no_mask_is_read(
    cells: str, tmp_path: Path, masks: bool
) -> None:
    (train, _) = ast.literal_eval(cells)
    content = json.loads(Path(train[1]).read_text())
    for entry in content["annotations"]:
        entry["segmentation"] = [[1, 2, 3, 4]]
    (tmp_path / "two_points.json").write_text(json.dumps(content))
    entry = ["two_points", str(tmp_path / "two_points.json"), train[2]]
    names = [f"dataloader.{x}.dataset.names=two_points" for x in ("train", "test")]
    names += ["train.device=cpu", f"dataloader.train.mapper.use_instance_mask={masks}"]
    load_lazy_config(CONFIG, [f"datasets.coco={[entry]}", *names])
    assert len(DatasetCatalog.get("two_points")) == 6
    objects = [x for record in DatasetCatalog.get("two_points") for x in record["annotations"]]
    assert len(objects) == (0 if masks else 6)


NAMED = """
from tests.modeling.test_detectors import fcos
model = fcos(16)
model.num_classes = 3
dataloader = {{"train": {{"mapper": {{"image_format": "BGR"}}, "dataset": {{"names": "{name}"}}}}}}
datasets = {{"coco": [["{name}", "{file}", "."]]}}
train = {{"init_checkpoint": ""}}
"""


@pytest.mark.parametrize(("names", "is_refused"), [("abc", False), ("cab", True)])
def test_a_teacher_in_python_whose_classes_have_another_order_is_refused(
    tmp_path: Path, names: str, is_refused: bool
) -> None:
    files = []
    for order in ("abc", names):
        categories = [{"id": i, "name": name} for i, name in enumerate(order)]
        content = {"images": [], "annotations": [], "categories": categories}
        files.append(tmp_path / f"{len(files)}.json")
        files[-1].write_text(json.dumps(content))
    (tmp_path / "teacher.py").write_text(NAMED.format(name="teachers", file=files[0]))
    node = L(build_teacher)(config=str(tmp_path / "teacher.py"), student_format="BGR", weights="")
    student = fcos(16)
    student.num_classes = 3
    options = {"levels": ["p3"], "name": "LayerToLayerDistiller"}
    cfg = OmegaConf.create(flags={"allow_objects": True})
    cfg.model = L(distill)(student=student, teacher=node, distiller=options, inherit=["head"])
    cfg.dataloader = {"train": {"dataset": {"names": "students"}}}
    cfg.datasets = {"coco": [["students", str(files[1]), "."]]}
    cfg.train = {"device": "cpu"}
    if not is_refused:
        LazyTrainer.build_model(cfg)
        return
    with pytest.raises(ValueError, match=r"INHERIT: class 0 .*'c', .*CLASSES \[2, 0, 1\]"):
        LazyTrainer.build_model(cfg)


def test_train_resume_and_evaluate(cells: str, tmp_path: Path) -> None:
    size = "augmentations.0.short_edge_length"
    small = [
        f"datasets.coco={cells}",
        "dataloader.train.dataset.names=bccd_train",
        "dataloader.test.dataset.names=bccd_val",
        f"dataloader.train.mapper.{size}=64",
        f"dataloader.test.mapper.{size}=64",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "dataloader.train.total_batch_size=2",
        "model.student.num_classes=3",
        "model.student.test_score_thresh=0.0",
        "model.student.backbone.bottom_up.stages.norm=BN",
        "model.teacher.weights=''",
        "model.teacher.input_scale=2",
        "model.teacher.opts=[MODEL.RESNETS.DEPTH,18,MODEL.RESNETS.RES2_OUT_CHANNELS,64]",
        "model.distiller.mid_channels=16",
        "optimizer.lr=0.0001",
        "train.init_checkpoint=''",
        "train.device=cpu",
        "train.log_period=1",
        "train.checkpointer.period=2",
        f"train.output_dir={tmp_path}",
    ]
    first = train_net("--config-file", CONFIG, *small, "train.max_iter=2")
    again = train_net("--config-file", CONFIG, "--resume", *small, "train.max_iter=4")
    last = check_run(tmp_path, [first, again], {"loss_fcos_cls", "distiller/loss_p3"})
    saved = torch.load(tmp_path / "model_final.pth", weights_only=False)
    assert not any("teacher" in name for name in saved["model"])
    assert saved["trainer"]["optimizer"]["state"] and saved["run_seed"]["seed"] >= 0
    weights = [f"train.init_checkpoint={tmp_path / 'model_final.pth'}"]
    cfg = load_lazy_config(CONFIG, [*small, *weights])
    args = default_argument_parser().parse_args(["--eval-only"])
    assert LazyTrainer.prepare(cfg, args)()["bbox"]["AP"] == last["bbox/AP"]


def test_options_of_yaml_for_a_teacher_in_python_name_the_key(tmp_path: Path) -> None:
    (tmp_path / "teacher.py").write_text(TEACHER)
    with pytest.raises(ValueError, match="MODEL.TEACHER.OPTS: got 'MODEL.RESNETS.DEPTH', expected"):
        build_teacher(
            config=str(tmp_path / "teacher.py"),
            student_format="RGB",
            opts=["MODEL.RESNETS.DEPTH", 50],
        )
