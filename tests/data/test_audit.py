"""Data sets that are well-formed and wrong, as exporters write them, and good ones."""

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fam_det.config import default_config
from fam_det.data import audit, register_coco_datasets
from fam_det.data.annotations import check_annotations, read_dataset
from fam_det.data.audit import (
    duplicates,
    find_shared_images,
    forget_warnings,
    kept_warnings,
    read_objects,
)

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

WIDTH, HEIGHT = 96, 64
Write = Callable[..., tuple[str, str]]


def content(count: int = 40, size: tuple[float, float] = (5, 30), seed: int = 0) -> dict[str, Any]:
    """Boxes of two classes anywhere in ten images, none near its like."""
    rng = np.random.default_rng(seed)
    annotations = []
    for number in range(1, count + 1):
        w, h = (int(x) for x in rng.uniform(*size, 2))
        box = [int(rng.integers(0, WIDTH - w)), int(rng.integers(0, HEIGHT - h)), w, h]
        annotations.append(
            {"id": number, "image_id": number % 10, "category_id": number % 2 + 3, "bbox": box}
        )
    images = [
        {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(10)
    ]
    categories = [{"id": 3, "name": "nut"}, {"id": 4, "name": "bolt"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a data set with drawn images; gives its file and its folder."""
    forget_warnings()

    def write_files(data: dict[str, Any], name: str = "a", prefix: bytes = b"") -> tuple[str, str]:
        file, folder = tmp_path / f"{name}.json", tmp_path / name
        folder.mkdir(exist_ok=True)
        file.write_bytes(prefix + json.dumps(data).encode())
        rng = np.random.default_rng(len(name) + ord(name[0]))
        for i in range(10):
            pixels = rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        return str(file), str(folder)

    return write_files


def with_boxes(change: Callable[..., list[float]], **options: Any) -> dict[str, Any]:
    data = content(**options)
    for entry in data["annotations"]:
        entry["bbox"] = change(*entry["bbox"])
    return data


def config(train: tuple[str, str], val: tuple[str, str], **keys: Any) -> CfgNode:
    cfg = default_config()
    cfg.DATASETS.COCO = [["audit_train", *train], ["audit_val", *val]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("audit_train",), ("audit_val",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.DATASETS.update(keys)
    return cfg


ODD_BOXES = {
    "corners": (lambda x, y, w, h: [x, y, x + w, y + h], "read as corners x0, y0, x1, y1"),
    "corners, y first": (lambda x, y, w, h: [y, x, y + h, x + w], "read as corners y0, x0, y1"),
    "y first": (lambda x, y, w, h: [y, x, h, w], "read as y, x, height, width"),
    "of larger images": (lambda *box: [3 * v for v in box], "or are empty, such as .* larger im"),
    "middles": (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], "read as middle x, middle y, wi"),
    "negative sides": (lambda x, y, w, h: [x + w, y + h, -w, -h], "read as a corner and the way"),
    "fractions": (
        lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT],
        "40 of 40 boxes lie within one pixel, such as annotation 1: .*: fractions of the image",
    ),
}


@pytest.mark.parametrize("kind", ODD_BOXES)
def test_boxes_of_another_form_are_an_error_unless_they_are_allowed(
    kind: str, write: Write
) -> None:
    change, message = ODD_BOXES[kind]
    pair = write(with_boxes(change, size=(25, 50)))
    with pytest.raises(ValueError, match=f"a.json: .*{message}.*--allow-odd-boxes"):
        register_coco_datasets(config(pair, pair))
    register_coco_datasets(config(pair, pair, ALLOW_ODD_BOXES=True))
    assert any("--allow-odd-boxes" in line for line in kept_warnings())


@pytest.mark.parametrize("size", [(1, 4), (5, 30), (45, 60)])
@pytest.mark.parametrize("out", [0, 15])
def test_boxes_that_are_right_are_no_error(size: tuple[int, int], out: int, write: Write) -> None:
    """Not even where a sixth of them is cut off by the image's border."""
    data = content(90, size)
    for entry in data["annotations"][:out]:
        entry["bbox"][:2] = [WIDTH - 3, HEIGHT - 3]
    found, is_plain = read_dataset("cells", *write(data))
    assert found == data and is_plain
    assert not any("read as" in line or "fractions" in line for line in kept_warnings())


def test_boxes_in_one_corner_of_all_images_are_named(write: Write) -> None:
    """As of images that were enlarged later, or boxes in percent of 200 pixels."""
    read_dataset("cells", *write(with_boxes(lambda *box: [v / 2 for v in box])))
    (line,) = kept_warnings()
    assert re.search(r"no box reaches beyond 4.% of its image's width and 4.% of", line)


def overlap(a: list[float], b: list[float]) -> float:
    """IoU from its definition, by counting cells of a tenth of a pixel."""
    grid = np.arange(0, WIDTH, 0.1) + 0.05
    inside = [
        ((grid > y) & (grid < y + h))[:, None] & ((grid > x) & (grid < x + w))
        for x, y, w, h in (a, b)
    ]
    return float((inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum())


def test_duplicates_are_objects_of_one_class_and_image_that_overlap() -> None:
    data = content(60, (28, 36), seed=1)
    objects = data["annotations"]
    expected = {
        (i, k)
        for k in range(len(objects))
        for i in range(k)
        if (k - i) % 10 == 0
        and overlap(objects[i]["bbox"], objects[k]["bbox"]) > audit.DUPLICATE_IOU
    }
    assert set(duplicates(read_objects(data))) == expected


def test_objects_that_are_there_twice_are_counted(write: Write) -> None:
    data = content()
    again = [
        {**x, "id": x["id"] + 1000, "bbox": [0.2 + v for v in x["bbox"]]}
        for x in data["annotations"]
        if x["bbox"][2] > 10 < x["bbox"][3]
    ]
    data["annotations"] += again
    total = len(data["annotations"])
    read_dataset("cells", *write(data))
    first = again[0]["id"]
    (line,) = [x for x in kept_warnings() if "on another" in x]
    assert f"a.json: {len(again)} of {total} objects lie on another of their class" in line
    assert f"{first - 1000} and {first}" in line


def test_a_class_without_objects_is_named(write: Write) -> None:
    data = content()
    data["categories"].insert(0, {"id": 0, "name": "parts"})
    read_dataset("--val", *write(data))
    (line,) = kept_warnings()
    assert "1 of 3 classes have no object: parts; " in line and "the AP of an evaluation" in line


def test_two_classes_of_one_name_are_an_error_where_both_have_objects(write: Write) -> None:
    """Roboflow's first class has none, and the name of the project."""
    data = content()
    data["categories"].insert(0, {"id": 0, "name": "nut"})
    read_dataset("cells", *write(data))
    data["annotations"][0]["category_id"] = 0
    with pytest.raises(ValueError, match="categories 0 and 3 are both called 'nut'; give their"):
        read_dataset("cells", *write(data))


def test_what_tools_write_for_boxes_that_people_drew_is_right(write: Write) -> None:
    data = content()
    for entry in data["annotations"]:
        entry |= {"segmentation": [[]], "score": 1.0, "attributes": {"rotation": 0.0}}
    read_dataset("cells", *write(data))
    assert kept_warnings() == []


def set_rotation(data: dict[str, Any]) -> None:
    for entry in data["annotations"]:  # CVAT writes it for all boxes
        entry["attributes"] = {"occluded": False, "rotation": 33.0 * (entry["id"] % 4 == 0)}


def set_score(data: dict[str, Any]) -> None:
    for entry in data["annotations"]:
        entry["score"] = 0.3 if entry["id"] < 9 else None


def set_similar_name(data: dict[str, Any]) -> None:
    data["categories"][1]["name"] = "Nut_"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_rotation, "10 of 40 boxes have a rotation in their attributes, such as 33 degrees"),
        (set_score, "8 of 40 objects have a score, as predictions do"),
        (set_similar_name, "'nut' and 'Nut_' are two classes"),
    ],
)
def test_what_trains_and_is_likely_wrong_is_named(
    change: Callable[[dict[str, Any]], None], message: str, write: Write
) -> None:
    data = content()
    change(data)
    read_dataset("cells", *write(data))
    (line,) = kept_warnings()
    assert message in line


def test_a_teachers_labels_may_have_scores(write: Write) -> None:
    data = content() | {"info": {"labelled_by": "teacher"}}
    set_score(data)
    read_dataset("cells", *write(data))
    assert kept_warnings() == []


def test_a_file_that_is_listed_twice_is_named(write: Write) -> None:
    data = content()
    data["images"].append({**data["images"][4], "id": 77})
    read_dataset("--val", *write(data))
    assert "1 of 11 images have the file of another, such as '4.png'" in kept_warnings()[0]


def turn(file: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(file).save(file, exif=exif)


def enlarge(file: Path) -> None:
    Image.open(file).resize((2 * WIDTH, 3 * HEIGHT)).save(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (enlarge, "first 192x192 pixels, expected 96x64; all are 2 times as wide and 3 times as h"),
        (turn, "first 64x96 pixels, expected 96x64; EXIF orientation explains it"),
    ],
)
def test_images_of_another_size_are_found(
    change: Callable[[Path], None], message: str, write: Write
) -> None:
    pair = write(content())
    files = sorted(Path(pair[1]).iterdir())
    change(files[0])
    read_dataset("cells", *pair)
    (line,) = kept_warnings()
    assert "1 of a sample of 10 images are not of the size in the file: '0.png', the" in line
    assert message in line
    for file in files[1:]:
        change(file)
    with pytest.raises(ValueError, match=f"10 of a sample of 10 .*'0.png', '1.png', .*{message}"):
        read_dataset("cells", *pair)


def test_images_in_both_sets_are_found_by_their_bytes(tmp_path: Path) -> None:
    for name, text in {"a": "12", "b": "13", "c": "13", "d": "123", "e": "", "f": ""}.items():
        (tmp_path / name).write_text(text)
    train, test = ([tmp_path / name for name in names] for names in ("abe", "cdf"))
    (found,) = find_shared_images(train, [*test, tmp_path / "gone"])
    text = f"1 of 4 images are also images to train on, with the same bytes, such as '{tmp_path}/c'"
    assert found.text.startswith(text)
    assert list(find_shared_images(train, test[1:])) == []


def test_both_sets_of_a_run_are_compared(write: Write) -> None:
    train, val = write(content(), "a"), write(content(seed=1), "b")
    register_coco_datasets(config(train, val))
    assert kept_warnings() == []
    (Path(val[1]) / "3.png").write_bytes((Path(train[1]) / "5.png").read_bytes())
    register_coco_datasets(config(train, val))
    (line,) = kept_warnings()
    assert line.startswith("DATASETS.TEST: audit_val: 1 of 10 images are also images to train on")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("bolt", "nut"), "the same in another order, class 0 is 'bolt' against 'nut'"),
        (("nut", "bolts"), "other names, class 1 is 'bolts' against 'bolt'"),
    ],
)
def test_data_sets_with_other_classes_are_an_error(
    names: tuple[str, str], message: str, write: Write
) -> None:
    other = content(seed=1)
    for category, name in zip(other["categories"], names, strict=True):
        category["name"] = name
    cfg = config(write(content(), "a"), write(other, "b"))
    with pytest.raises(ValueError, match=f"audit_val are not those of audit_train: {message}"):
        register_coco_datasets(cfg)


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"utf-16"])
def test_byte_order_marks_are_read(prefix: bytes, write: Write) -> None:
    file, folder = write(content(), prefix=b"" if prefix == b"utf-16" else prefix)
    if prefix == b"utf-16":
        Path(file).write_text(Path(file).read_text(), encoding="utf-16")
    register_coco_datasets(config((file, folder), (file, folder)))
    records = DatasetCatalog.get("audit_val")
    assert len(records) == 10 and records[0]["file_name"] == f"{folder}/0.png"
    evaluated = json.loads(Path(MetadataCatalog.get("audit_val").json_file).read_text())
    assert evaluated == content()


SPELLINGS = {
    "backslashes": ("{}", "sub\\{}.png", "sub/{}.png"),
    "with its folder": ("{}/sub", "sub\\{}.png", "{}.png"),
    "absolute": ("{}", "{folder}/sub/{}.png", "sub/{}.png"),
    "absolute, with dots": ("{}", "{folder}/sub/../sub/{}.png", "sub/{}.png"),
    "quoted as in an URL": ("{}", "%73ub/{}.png", "sub/{}.png"),
    "through a link": ("{}", "{folder}/../linked/sub/{}.png", "sub/{}.png"),
    "dots that stay inside": ("{}", "sub/../sub/{}.png", "sub/{}.png"),
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_other_spellings_of_a_file_in_the_folder_are_read(kind: str, tmp_path: Path) -> None:
    where, spelling, expected = SPELLINGS[kind]
    (tmp_path / "images" / "sub").mkdir(parents=True)
    (tmp_path / "linked").symlink_to("images")
    data = content()
    for i, image in enumerate(data["images"]):
        Image.new("1", (WIDTH, HEIGHT)).save(tmp_path / "images" / "sub" / f"{i}.png")
        image["file_name"] = spelling.format(i, folder=tmp_path / "images")
    (tmp_path / "a.json").write_text(json.dumps(data))
    folder = Path(where.format(tmp_path / "images"))
    pair = str(tmp_path / "a.json"), str(folder)
    register_coco_datasets(config(pair, pair))
    for i, record in enumerate(DatasetCatalog.get("audit_train")):
        assert Path(record["file_name"]).samefile(folder / expected.format(i))


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_letters_may_be_apart_from_their_accents(forms: tuple[str, str], tmp_path: Path) -> None:
    """As in an archive of macOS."""
    name, other = (unicodedata.normalize(form, "käse.png") for form in forms)
    (tmp_path / other).touch()
    data = content(0) | {"images": content()["images"][:1]}
    data["images"][0]["file_name"] = name
    assert check_annotations("cells", data, str(tmp_path))
    assert data["images"][0]["file_name"] == other


def test_a_backslash_in_a_name_that_is_there_is_a_letter(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("sub\\0.png", "sub/0.png"):
        (tmp_path / name).touch()
    data = {**content(0), "images": content()["images"][:1]}
    data["images"][0]["file_name"] = "sub\\0.png"
    assert not check_annotations("cells", data, str(tmp_path))
    assert data["images"][0]["file_name"] == "sub\\0.png"


def test_backslashes_lead_out_of_the_folder_no_more_than_slashes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.png").touch()
    data = content()
    data["images"][0]["file_name"] = "..\\secret.png"
    with pytest.raises(ValueError, match="leaves the image folder"):
        check_annotations("cells", data, str(tmp_path / "images"))
