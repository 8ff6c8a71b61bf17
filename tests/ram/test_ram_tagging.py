"""From scores to tags, and what changed between two images."""

import json

import pytest
import torch
from torch import Tensor

from semillie_core.ram import (
    RAM,
    RAMEncoder,
    SemanticFeatures,
    SemanticModel,
    TagOptions,
    TagResult,
    Vocabulary,
    imagenet_vocabulary,
    load_efficientnet_lite0,
    ram_vocabulary,
    semantic_drift,
    tag_images,
)


class _Stub(torch.nn.Module):
    """An encoder whose image spells out the probabilities: pixel i of the red channel is that of tag i."""

    is_ram, name = True, "stub"

    def __init__(self, tags: int, exclusive: bool = False) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.tags, self.exclusive, self.batches = tags, exclusive, []

    def tagging_view(self, image: Tensor) -> Tensor:
        return image

    def encode(self, image: Tensor, **_: bool) -> SemanticFeatures:
        self.batches.append(len(image))
        probabilities = image[:, 0].flatten(1)[:, : self.tags]
        logits = probabilities.log() if self.exclusive else probabilities.logit()
        return SemanticFeatures(embedding=image.flatten(1), logits=logits)


@pytest.fixture
def stub(vocabulary) -> SemanticModel:
    return SemanticModel(_Stub(len(vocabulary)), "stub", "RAM", vocabulary)


def _image(*probabilities: float) -> Tensor:
    image = torch.zeros(3, 1, len(probabilities))
    image[0, 0] = torch.tensor(probabilities)
    return image


#                   cat  dog  cat food  street light (never)  Street Art  car
_PROBABILITIES = (0.60, 0.61, 0.39, 0.99, 0.90, 0.70)


def _text(model: SemanticModel, **options) -> str:
    (result,) = tag_images(model, _image(*_PROBABILITIES)[None], TagOptions(**options))
    return result.text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "Street Art, cat, dog"),
        ({"sort": "list"}, "cat, dog, Street Art"),
        ({"sort": "list", "separator": " | "}, "cat | dog | Street Art"),
        ({"threshold_offset": -0.05}, "Street Art, cat, dog, car, cat food"),
        # At the floor, a quarter of each threshold.
        ({"threshold_offset": -1.0}, "Street Art, car, cat, dog, cat food"),
        ({"threshold_offset": 0.2}, "Street Art"),
        ({"threshold_mode": "flat", "flat_threshold": 0.65}, "street light, Street Art, car"),
        ({"exclude": "CAT*"}, "Street Art, dog"),
        ({"exclude": "street_art"}, "cat, dog"),
        ({"exclude": "  Street   Art\ndog "}, "cat"),
        ({"exclude": ("?at", "d[aeo]g")}, "Street Art"),
        ({"exclude": "街头*，狗"}, "cat"),
        ({"include": "cat, dog"}, "cat, dog"),
        ({"include": "*a*", "exclude": "cat"}, "Street Art"),
        ({"include": "unknown"}, ""),
        ({"max_tags": 1}, "Street Art"),
        ({"max_tags": 2, "sort": "list"}, "cat, Street Art"),
        ({"underscores": True}, "Street_Art, cat, dog"),
        ({"prefix": "photo of ", "suffix": "."}, "photo of Street Art, cat, dog."),
        ({"prefix": "photo of ", "suffix": ".", "threshold_offset": 0.9}, ""),
        ({"language": "zh"}, "街头艺术, 猫, 狗"),
        ({"language": "both", "max_tags": 2}, "Street Art, cat, 街头艺术, 猫"),
    ],
)
def test_options(stub, options: dict, expected: str) -> None:
    assert _text(stub, **options) == expected


def test_a_probability_equal_to_the_threshold_is_not_enough(vocabulary) -> None:
    half = Vocabulary(("tag",), (0.5,))
    model = SemanticModel(_Stub(1), "stub", "RAM", half)
    assert [r.text for r in tag_images(model, torch.stack([_image(0.5), _image(0.500001)]))] == ["", "tag"]


def test_result_carries_scores_and_both_languages(stub) -> None:
    (result,) = tag_images(stub, _image(*_PROBABILITIES)[None], TagOptions(max_tags=1))
    assert isinstance(result, TagResult)
    (tag,) = result.tags
    assert (tag.index, tag.english, tag.chinese) == (4, "Street Art", "街头艺术")
    assert tag.probability == pytest.approx(0.9, abs=1e-6)
    assert tag.threshold == pytest.approx(0.3, abs=1e-6)
    odds = (0.9 / 0.1) / (0.3 / 0.7)
    assert tag.score == pytest.approx(odds / (1 + odds), abs=1e-5)
    assert (result.english, result.chinese) == ("Street Art", "街头艺术")
    decoded = json.loads(json.dumps(result.to_dict(), ensure_ascii=False))
    assert decoded["tags"][0]["chinese"] == "街头艺术"


def test_one_result_per_image_whatever_the_batching(stub) -> None:
    images = torch.stack([_image(*(0.9 if i == j else 0.1 for i in range(6))) for j in (0, 1, 2, 4, 5)])
    expected = ["cat", "dog", "cat food", "Street Art", "car"]
    for batch_size in (1, 2, 5, 8):
        done: list[int] = []
        results = tag_images(
            stub, images, batch_size=batch_size, progress=lambda at, _, done=done: done.append(at)
        )
        assert [result.text for result in results] == expected
        assert done == sorted({*range(batch_size, 5, batch_size), 5})
    assert tag_images(stub, images[:0]) == []


def test_images_of_different_sizes(tiny, vocabulary) -> None:
    model = SemanticModel(RAMEncoder(tiny), "tiny", "RAM", vocabulary)
    photos = [torch.rand(3, 40, 70), torch.rand(1, 90, 90), torch.rand(4, 1, 1), torch.rand(3, 1000, 3)]
    together = tag_images(model, photos, batch_size=4)
    singly = [tag_images(model, [photo])[0] for photo in photos]
    assert [r.text for r in together] == [r.text for r in singly]
    assert len(together) == 4


def test_extreme_shapes_with_the_bundled_model() -> None:
    model = load_efficientnet_lite0()
    results = tag_images(model, [torch.rand(3, 10_000, 3), torch.rand(1, 1, 1), torch.rand(4, 3, 10_000)])
    assert len(results) == 3


class _OutOfRoomError(Exception):
    """What some device says when memory is full."""


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (torch.OutOfMemoryError("too many"), {}),
        (RuntimeError("MPS backend out of memory"), {}),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), {}),
        (_OutOfRoomError("no room"), {"out_of_memory": lambda error: isinstance(error, _OutOfRoomError)}),
    ],
)
def test_memory_pressure_halves_the_batch(stub, error: Exception, options: dict) -> None:
    encode = stub.encoder.encode

    def limited(image: Tensor, **keywords: bool) -> SemanticFeatures:
        if len(image) > 2:
            raise error
        return encode(image, **keywords)

    stub.encoder.encode = limited
    images = torch.stack([_image(*_PROBABILITIES)] * 7)
    assert len(tag_images(stub, images, batch_size=7, **options)) == 7
    assert stub.encoder.batches == [2, 2, 2, 1]
    assert len(semantic_drift(stub, images[:2], images[:2], batch_size=4, **options)) == 2

    def hopeless(image: Tensor, **_: bool) -> SemanticFeatures:
        raise error

    stub.encoder.encode = hopeless
    with pytest.raises(type(error)):
        tag_images(stub, images, batch_size=7, **options)


def test_other_errors_are_not_taken_for_full_memory(stub) -> None:
    sizes = []

    def broken(image: Tensor, **_: bool) -> SemanticFeatures:
        sizes.append(len(image))
        raise RuntimeError("something else")

    stub.encoder.encode = broken
    with pytest.raises(RuntimeError, match="something else"):
        tag_images(stub, torch.stack([_image(*_PROBABILITIES)] * 4), batch_size=4)
    assert sizes == [4]


def test_interruption_passes_through(stub) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tag_images(stub, torch.stack([_image(*_PROBABILITIES)] * 3), progress=stop)
    assert stub.encoder.batches == [1]


def test_a_pass_can_be_stopped() -> None:
    model = load_efficientnet_lite0()
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt

    image = torch.rand(1, 3, 40, 40)
    with pytest.raises(KeyboardInterrupt):
        tag_images(model, image, check=stop)
    calls = 0
    with pytest.raises(KeyboardInterrupt):
        semantic_drift(model, image, image, check=stop)
    assert calls == 5
    tag_images(model, image)
    assert calls == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold_mode": "x"}, "threshold_mode"),
        ({"language": "fr"}, "language"),
        ({"sort": "alphabet"}, "sort"),
        ({"threshold_offset": 1.5}, "threshold_offset"),
        ({"flat_threshold": -0.1}, "flat_threshold"),
        ({"max_tags": -1}, "max_tags"),
    ],
)
def test_impossible_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TagOptions(**options)


def test_bad_calls(stub) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        tag_images(stub, torch.rand(1, 3, 1, 6), batch_size=0)
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        tag_images(stub, torch.rand(3, 1, 6))
    with pytest.raises(ValueError, match="English only"):
        tag_images(load_efficientnet_lite0(), torch.rand(1, 3, 8, 8), TagOptions(language="zh"))


@torch.no_grad()
def test_the_official_tags_of_the_fixture(parity, config_of) -> None:
    facts, tensors = parity("ram_parity_a")
    model = RAM(config_of(facts["config"]))
    model.load_state_dict(
        {k.removeprefix("weight."): v for k, v in tensors.items() if k.startswith("weight.")}
    )
    vocabulary = Vocabulary(
        tuple(facts["tag_list"]),
        tuple(facts["thresholds"]),
        tuple(name.strip() for name in facts["tag_list_chinese"]),
    )
    tagger = SemanticModel(RAMEncoder(model), "parity", "RAM", vocabulary)
    photos = [tensors[f"in.raw{i}_u8"].movedim(-1, 0).float() / 255 for i in (0, 1)]
    official = TagOptions(sort="list", separator=" | ")
    results = tag_images(tagger, photos, official, batch_size=2)
    assert [result.english for result in results] == facts["expected_tags"]
    chinese = [[name.strip() for name in line.split("|")] for line in facts["expected_tags_chinese"]]
    assert [result.chinese.split(" | ") for result in results] == chinese

    deleted = ",".join(facts["tag_list"][i] for i in (0, 3))
    results = tag_images(tagger, photos, TagOptions(sort="list", separator=" | ", exclude=deleted))
    assert [result.english for result in results] == facts["expected_tags_with_delete_tag_index_0_3"]


def test_the_tag_lists(facts) -> None:
    vocabulary = ram_vocabulary()
    assert len(vocabulary) == 4585
    assert len(set(vocabulary.english)) == 4585
    assert all(name and name == name.strip() for name in vocabulary.english + vocabulary.chinese)
    assert sum(threshold == 0.65 for threshold in vocabulary.thresholds) == 3414
    assert sum(threshold == 1.0 for threshold in vocabulary.thresholds) == 10
    described = facts("ram_parity_a")
    for index, english, chinese in zip(
        described["official_indices"], described["tag_list"], described["tag_list_chinese"], strict=True
    ):
        assert vocabulary.english[index] == english
        assert vocabulary.chinese[index] == chinese.strip()
    assert imagenet_vocabulary().exclusive
    assert not imagenet_vocabulary().chinese


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 English, 1 thresholds"):
        Vocabulary(("a", "b"), (0.5,))


def test_exclusive_classes_compete() -> None:
    model = SemanticModel(
        _Stub(3, exclusive=True), "s", "s", Vocabulary(("a", "b", "c"), (0.1,) * 3, exclusive=True)
    )
    (result,) = tag_images(model, _image(0.2, 0.75, 0.05)[None])
    assert result.text == "b, a"
    assert [tag.probability for tag in result.tags] == pytest.approx([0.75, 0.2])


def test_an_offset_never_reports_every_class() -> None:
    photo = torch.rand(1, 3, 60, 80)
    model = load_efficientnet_lite0()
    for offset in (-0.1, -1.0):
        options = TagOptions(threshold_offset=offset)
        (result,) = tag_images(model, photo, options)
        assert all(tag.probability > 0.025 for tag in result.tags)
        (report,) = semantic_drift(model, photo, photo * 0.1, options)
        assert len(report.kept + report.lost + report.gained) <= 2 * 40
    assert (TagOptions(threshold_offset=-1.0).thresholds(ram_vocabulary()) > 0.1).all()


@pytest.mark.parametrize(
    ("name", "label"), [("chelsea", "tiger cat"), ("coffee", "espresso"), ("rocket", "missile")]
)
def test_the_bundled_model_recognises_photos(name: str, label: str) -> None:
    data = pytest.importorskip("skimage.data")
    photo = torch.from_numpy(getattr(data, name)()).movedim(-1, 0).float() / 255
    (result,) = tag_images(load_efficientnet_lite0(), [photo], TagOptions(max_tags=1))
    assert result.text == label


def test_drift_names_what_was_kept_lost_and_gained(stub) -> None:
    before = _image(0.90, 0.70, 0.41, 0.99, 0.05, 0.10)
    after = _image(0.95, 0.10, 0.39, 0.99, 0.80, 0.10)
    (report,) = semantic_drift(stub, before[None], after[None])
    # "cat food" fell from just above its threshold to just below: within the margin, so kept.
    assert [change.english for change in report.kept] == ["cat", "cat food"]
    assert [change.english for change in report.lost] == ["dog"]
    assert [change.english for change in report.gained] == ["Street Art"]
    assert report.lost[0].chinese == "狗"
    assert report.lost[0].before > 0.5 > report.lost[0].after
    assert report.overlap == pytest.approx(0.5)
    assert report.similarity == pytest.approx(
        float(torch.cosine_similarity(before.flatten(), after.flatten(), dim=0)), abs=1e-6
    )
    assert json.loads(json.dumps(report.to_dict()))["gained"][0]["english"] == "Street Art"

    (strict,) = semantic_drift(stub, before[None], after[None], margin=0.0)
    assert [change.english for change in strict.lost] == ["dog", "cat food"]
    (filtered,) = semantic_drift(stub, before[None], after[None], TagOptions(exclude="dog"))
    assert filtered.lost == ()


def test_no_drift_between_equal_images(stub) -> None:
    images = torch.stack([_image(*_PROBABILITIES), _image(*[0.01] * 6)])
    for report in semantic_drift(stub, images, images, batch_size=3):
        assert report.similarity == pytest.approx(1.0, abs=1e-6)
        assert report.overlap == 1.0
        assert report.lost == report.gained == ()
    assert semantic_drift(stub, images[:0], images[:0]) == []


def test_drift_needs_pairs(stub) -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        semantic_drift(stub, torch.rand(1, 3, 1, 6), torch.rand(2, 3, 1, 6))


def test_darkness_is_drift_for_the_bundled_model() -> None:
    data = pytest.importorskip("skimage.data")
    photo = torch.from_numpy(data.coffee()).movedim(-1, 0)[None].float() / 255
    reports = [semantic_drift(load_efficientnet_lite0(), photo, photo * gain)[0] for gain in (1.0, 0.5, 0.05)]
    assert reports[0].similarity > reports[1].similarity > reports[2].similarity
    assert [change.english for change in reports[0].kept] == ["espresso"]
