import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng

from instseg_d2.data import ReferenceFrames, SampleError, VideoClips, VideoMapper

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def frame(tmp_path):
    """Gives a record; the frame shows its instances, 10 px squares of a color of their own, at their place."""

    def make(index, corners, size=(HEIGHT, WIDTH), **entries):
        image = np.zeros((*size, 3), np.uint8)
        annotations = []
        for identity, (x, y) in corners.items():
            image[y : y + 10, x : x + 10] = (40 * identity, 20, 255 - 40 * identity)
            polygon = [float(v) for v in (x, y, x + 10, y, x + 10, y + 10, x, y + 10)]
            annotations.append(
                {
                    "id": 7,
                    "instance_id": identity,
                    "category_id": 0,
                    "bbox": [x, y, x + 10, y + 10],
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "segmentation": [polygon],
                }
            )
        path = str(tmp_path / f"{len(list(tmp_path.iterdir()))}.png")
        cv2.imwrite(path, image)
        record = {"file_name": path, "height": size[0], "width": size[1], "image_id": index, "annotations": annotations}
        return record | {"video_id": 1, "frame_index": index} | entries

    return make


AUGMENTATIONS = [
    T.ResizeShortestEdge(short_edge_length=(30, 60), sample_style="range", max_size=90),
    T.RandomFlip(horizontal=True),
    T.RandomFlip(horizontal=False, vertical=True),
    T.RandomCrop("relative_range", (0.8, 0.8)),
    T.RandomBrightness(0.5, 1.5),
]


def test_key_and_references_are_augmented_alike(frame):
    # The same picture three times: augmented alike, all of it stays the same.
    records = [frame(index, {1: (5, 5), 2: (40, 22)}) for index in range(3)]
    mapper = VideoMapper(is_train=True, augmentations=AUGMENTATIONS)
    shapes = set()
    for seed in range(12):
        seed_all_rng(seed)
        sample = mapper({**records[0], "references": records[1:]})
        shapes.add(tuple(sample["image"].shape))
        assert [reference["frame_index"] for reference in sample["references"]] == [1, 2]
        for reference in sample["references"]:
            assert torch.equal(reference["image"], sample["image"])
            for field in ("gt_boxes", "gt_masks"):
                key, other = (one["instances"].get(field).tensor for one in (sample, reference))
                assert torch.equal(key, other)
            assert torch.equal(reference["instances"].gt_ids, sample["instances"].gt_ids)
    assert len(shapes) > 6


def test_samples_differ_from_each_other(frame):
    record = frame(0, {1: (5, 5)})
    mapper = VideoMapper(is_train=True, augmentations=AUGMENTATIONS)

    def run(seed):
        seed_all_rng(seed)
        return [mapper({**record, "references": [record] * count})["image"] for count in (1, 2, 1, 2)]

    # The numbers of the next sample do not depend on how many references there are.
    images = run(0)
    assert len({tuple(image.shape) for image in images}) > 1
    assert all(torch.equal(one, other) for one, other in zip(images, run(0), strict=True))
    seed_all_rng(0)
    alone = [mapper(record)["image"] for _ in range(4)]
    assert all(torch.equal(one, other) for one, other in zip(images, alone, strict=True))


def test_identities_follow_their_objects(frame):
    records = [frame(0, {1: (5, 5), 3: (40, 20)}), frame(1, {3: (30, 10), 1: (8, 12)}), frame(2, {})]
    mapper = VideoMapper(is_train=True, augmentations=[T.RandomFlip(prob=1.0)], num_classes=2)
    sample = mapper({**records[0], "references": records[1:]})
    assert sample["video_id"] == 1
    assert sample["instances"].gt_ids.tolist() == [1, 3]
    near, empty = (reference["instances"] for reference in sample["references"])
    assert near.gt_ids.tolist() == [3, 1]
    assert near.gt_boxes.tensor.tolist() == [[20, 10, 30, 20], [42, 12, 52, 22]]
    assert near.gt_masks.tensor[0].nonzero().tolist()[0] == [10, 20]
    assert sample["references"][0]["image"][:, 15, 25].tolist() == [120, 20, 135]
    assert len(empty) == 0
    assert empty.gt_ids.dtype == torch.int64
    assert "annotations" not in sample["references"][0]


def test_frames_of_other_sizes_are_augmented_with_the_same_numbers(frame):
    records = [frame(0, {1: (5, 5)}), frame(1, {1: (5, 5)}, size=(HEIGHT, 2 * WIDTH))]
    mapper = VideoMapper(is_train=True, augmentations=[T.RandomFlip(prob=0.5)])
    for seed in range(8):
        seed_all_rng(seed)
        sample = mapper({**records[0], "references": records[1:]})
        key, other = (one["instances"].gt_boxes.tensor[0].tolist() for one in (sample, sample["references"][0]))
        assert (key, other) in [
            ([5, 5, 15, 15], [5, 5, 15, 15]),
            ([WIDTH - 15, 5, WIDTH - 5, 15], [2 * WIDTH - 15, 5, 2 * WIDTH - 5, 15]),
        ]


def test_still_images_are_numbered(frame):
    record = frame(0, {5: (5, 5), 6: (30, 5)})
    for annotation in record["annotations"]:
        del annotation["instance_id"]
    del record["video_id"], record["frame_index"]
    mapper = VideoMapper(is_train=True, augmentations=[T.RandomFlip()])
    sample = mapper(VideoClips([record], ReferenceFrames())[0])
    assert sample["instances"].gt_ids.tolist() == sample["references"][0]["instances"].gt_ids.tolist() == [1, 2]
    assert torch.equal(sample["image"], sample["references"][0]["image"])
    assert "instance_id" not in record["annotations"][0]


def test_testing_maps_frames_without_truth(frame):
    mapper = VideoMapper(is_train=False, augmentations=[T.ResizeShortestEdge(20, 100)])
    sample = mapper(frame(4, {1: (5, 5)}, video_length=9))
    assert sample["image"].shape == (3, 20, 30)
    assert (sample["frame_index"], sample["video_length"], sample["height"]) == (4, 9, HEIGHT)
    assert not {"instances", "annotations", "references"} & set(sample)


def test_missing_frame_and_missing_identity_are_named(frame, tmp_path):
    records = [frame(0, {1: (5, 5)}), frame(1, {1: (5, 5)})]
    mapper = VideoMapper(is_train=True, augmentations=[])
    (tmp_path / "1.png").unlink()
    with pytest.raises(SampleError, match=r"image .*1.png \(id 1\): .*restore the file"):
        mapper({**records[0], "references": [records[1]]})
    del records[0]["annotations"][0]["instance_id"]
    with pytest.raises(SampleError, match="annotation 7 of image .*: no 'instance_id', which gt_ids is made from"):
        mapper(records[0])
