"""Which photos are found, and that no result can hit a photo or another result."""

import errno
import os
import stat
import sys
import unicodedata
from pathlib import Path

import pytest

from semillie_core.cli import _files
from semillie_core.cli._errors import UsageError
from semillie_core.cli._files import Found, find_photos, plan_jobs
from semillie_core.files import atomic_write


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def found_names(arguments, root, **options):
    photos, problems = find_photos([str(argument) for argument in arguments], **options)
    return [photo.path.relative_to(root).as_posix() for photo in photos], problems


def targets(arguments, output=None, **options):
    photos, _ = find_photos(
        [str(argument) for argument in arguments], recursive=options.pop("recursive", False)
    )
    return [job.target for job in plan_jobs(photos, output, **options)]


def test_folders_give_their_photos_in_order(tmp_path):
    make(
        tmp_path,
        "b.JPG",
        "a.png",
        "c.webp",
        "d.tiff",
        "e.jfif",
        "notes.txt",
        "._b.jpg",
        "sub/e.jpg",
        "sub/f.HEIC",
        "sub/g.NEF",
        ".Trash-1000/files/thrown_away.jpg",
        "sub/.thumbnails/e.jpg",
    )
    assert found_names([tmp_path], tmp_path) == (["a.png", "b.JPG", "c.webp", "d.tiff", "e.jfif"], [])
    assert found_names([tmp_path], tmp_path, recursive=True)[0] == [
        "a.png",
        "b.JPG",
        "c.webp",
        "d.tiff",
        "e.jfif",
        "sub/e.jpg",
        "sub/f.HEIC",
        "sub/g.NEF",
    ]


def test_patterns_files_and_folders_mix_without_repeats(tmp_path):
    make(tmp_path, "a.jpg", "b.jpg", "c.png", "deep/er/d.jpg")
    arguments = [tmp_path / "b.jpg", tmp_path / "*.jpg", tmp_path, f"{tmp_path}/**/d.*"]
    assert found_names(arguments, tmp_path) == (["b.jpg", "a.jpg", "c.png", "deep/er/d.jpg"], [])


def test_a_name_with_brackets_is_a_name_first(tmp_path):
    make(tmp_path, "a[1].jpg", "a1.jpg")
    assert found_names([tmp_path / "a[1].jpg"], tmp_path)[0] == ["a[1].jpg"]


def test_named_files_are_taken_whatever_their_ending(tmp_path):
    make(tmp_path, "photo.bin")
    assert found_names([tmp_path / "photo.bin"], tmp_path) == (["photo.bin"], [])


def test_arguments_that_name_nothing_are_reported(tmp_path):
    make(tmp_path, "empty/readme.txt", "deep/er/a.jpg")
    photos, problems = find_photos([str(tmp_path / name) for name in ("none.jpg", "empty", "deep", "*.gif")])
    assert photos == []
    assert len(problems) == 4
    for part, problem in zip(
        ("does not exist", "holds no", "--recursive", "matches no"), problems, strict=True
    ):
        assert part in problem


def test_an_empty_argument_is_not_the_current_folder(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg")
    monkeypatch.chdir(tmp_path)
    photos, problems = find_photos([""])
    assert photos == []
    assert "empty argument" in problems[0]


def test_results_inside_a_searched_folder_are_not_searched(tmp_path):
    make(tmp_path, "a.jpg", "out/a.jpg")
    names, _ = found_names([tmp_path], tmp_path, recursive=True, leave_out=tmp_path / "out")
    assert names == ["a.jpg"]
    assert found_names([tmp_path], tmp_path, recursive=True, leave_out=tmp_path)[0] == ["a.jpg", "out/a.jpg"]


def test_results_of_an_earlier_call_are_not_photos(tmp_path):
    make(tmp_path, "a.jpg", "a_enhanced.jpg", "a_enhanced_compare.jpg", "b_enhanced.jpg")
    assert found_names([tmp_path / "*.jpg"], tmp_path)[0] == ["a.jpg", "b_enhanced.jpg"]
    assert found_names([tmp_path / "a_enhanced.jpg"], tmp_path)[0] == ["a_enhanced.jpg"]
    assert len(found_names([tmp_path / "*.jpg"], tmp_path, with_results=True)[0]) == 4


def test_numbered_results_of_an_earlier_call_are_not_photos(tmp_path):
    make(
        tmp_path,
        "a.jpg",
        "a.png",
        "a_enhanced.jpg",
        "a_enhanced-2.jpg",
        "a_enhanced-2_compare.jpg",
        "a_enhanced_compare-2.jpg",
        "b-2.jpg",
    )
    assert found_names([tmp_path / "*.*"], tmp_path)[0] == ["a.jpg", "a.png", "b-2.jpg"]


@pytest.mark.parametrize("name", ["_enhanced.jpg", "_enhanced_compare.png", "._enhanced.jpg"])
def test_a_photo_that_is_called_like_the_mark_is_a_photo(tmp_path, name):
    make(tmp_path, name)
    assert found_names([tmp_path / name], tmp_path)[0] == [name]


@pytest.mark.parametrize("argument", ["photos", "photos/*.jpg", "photos/**/a.jpg"])
@pytest.mark.parametrize("output", [".", "..", "photos", "other"])
def test_results_elsewhere_hide_no_photos(tmp_path, monkeypatch, argument, output):
    make(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    photos, problems = find_photos([argument], leave_out=Path(output))
    assert [photo.path for photo in photos] == [Path("photos/a.jpg")]
    assert problems == []


def test_patterns_do_not_reach_into_the_folder_of_results(tmp_path, monkeypatch):
    make(tmp_path, "trip/a.jpg", "out/a.jpg")
    monkeypatch.chdir(tmp_path)
    for pattern, names in (("**/*.jpg", ["trip/a.jpg"]), ("out/*.jpg", ["out/a.jpg"])):
        photos, _ = find_photos([pattern], leave_out=Path("out"))
        assert [photo.path.as_posix() for photo in photos] == names


def test_a_whole_drive_needs_an_output():
    drive = Path(Path.cwd().anchor)
    photos = [Found(drive / "a.jpg", Path("a.jpg"), drive)]
    with pytest.raises(UsageError, match="--output"):
        plan_jobs(photos, None)
    assert plan_jobs(photos, Path("out"))[0].target == Path("out/a.jpg")


def test_what_must_not_be_looked_at_is_reported(tmp_path, monkeypatch):
    make(tmp_path, "a.jpg")
    look = Path.stat

    def stat(path, **options):
        if "locked" in path.parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    arguments = [str(tmp_path / "locked" / "b.jpg"), str(tmp_path / "a.jpg")]
    photos, problems = find_photos(arguments)
    assert [photo.path for photo in photos] == [tmp_path / "a.jpg"]
    assert len(problems) == 1
    assert "b.jpg" in problems[0]
    # Elsewhere nothing is looked at that may raise: writing says what is wrong.
    assert plan_jobs(photos, tmp_path / "locked" / "c.jpg")[0].target == tmp_path / "locked" / "c.jpg"


def test_a_folder_that_must_not_be_read_is_not_said_to_be_empty(tmp_path, monkeypatch):
    def locked(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", locked)
    _, (problem,) = find_photos([str(tmp_path)])
    assert problem == f"{tmp_path} cannot be read: {os.strerror(errno.EACCES)}."


def test_results_go_beside_photos_and_beside_folders(tmp_path):
    make(tmp_path, "trip/a.jpg", "trip/day/b.png", "c.tif")
    assert targets([tmp_path / "c.tif"]) == [tmp_path / "c_enhanced.tif"]
    assert targets([tmp_path / "trip"], recursive=True) == [
        tmp_path / "trip_enhanced/a.jpg",
        tmp_path / "trip_enhanced/day/b.png",
    ]
    assert targets([tmp_path / "trip"], tmp_path / "out", file_format="png", recursive=True) == [
        tmp_path / "out/a.png",
        tmp_path / "out/day/b.png",
    ]


def test_endings_of_results_follow_the_content(tmp_path):
    contents = {
        "jpeg": b"\xff\xd8\xff\xe0",
        "png": b"\x89PNG\r\n\x1a\n",
        "webp": b"RIFF    WEBP",
        "tiff": b"II*\0",
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    }
    names = {
        "a.jfif": ("jpeg", "a.jfif"),
        "b.JPE": ("jpeg", "b.JPE"),
        "c.jpg": ("png", "c.png"),
        "d.png": ("webp", "d.webp"),
        "e": ("tiff", "e.tif"),
        "2024.12.24": ("jpeg", "2024.12.24.jpg"),
        "IMG_1.HEIC": ("heic", "IMG_1.jpg"),
        "f.heif": ("png", "f.png"),
        "g.NEF": ("tiff", "g.png"),
        "h.dng": ("jpeg", "h.jpg"),
    }
    for name, (content, _) in names.items():
        (tmp_path / name).write_bytes(contents[content])
    files = [tmp_path / name for name in names]
    assert [path.name for path in targets(files, tmp_path / "out")] == [
        result for _, result in names.values()
    ]
    converted = [path.name for path in targets(files, tmp_path / "out", file_format="webp")]
    assert converted == [
        "a.webp",
        "b.webp",
        "c.webp",
        "d.webp",
        "e.webp",
        "2024.12.24.webp",
        "IMG_1.webp",
        "f.webp",
        "g.webp",
        "h.webp",
    ]
    assert targets([tmp_path / "e"], tmp_path / "f.jfif", file_format="jpg") == [tmp_path / "f.jfif"]
    assert targets([tmp_path / "e"]) == [tmp_path / "e_enhanced.tif"]


def test_the_current_folder_has_a_name_too(tmp_path, monkeypatch):
    make(tmp_path, "trip/a.jpg")
    monkeypatch.chdir(tmp_path / "trip")
    assert targets(["."]) == [tmp_path / "trip_enhanced/a.jpg"]


@pytest.mark.parametrize("output", ["trip", "trip/../trip", "link"])
def test_writing_into_the_searched_folder_renames(tmp_path, output):
    make(tmp_path, "trip/a.jpg")
    if output == "link":
        if sys.platform == "win32":
            pytest.skip("symbolic links need a privilege on Windows")
        (tmp_path / "link").symlink_to(tmp_path / "trip", target_is_directory=True)
    (target,) = targets([tmp_path / "trip"], tmp_path / output)
    assert target.name == "a_enhanced.jpg"


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege on Windows")
def test_results_are_never_photos_even_through_links(tmp_path):
    make(tmp_path, "a.jpg", "out/keep.txt")
    (tmp_path / "out" / "a.jpg").symlink_to(tmp_path / "a.jpg")
    (target,) = targets([tmp_path / "a.jpg"], tmp_path / "out")
    assert target.resolve() != (tmp_path / "a.jpg").resolve()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert targets([tmp_path / "a.jpg"], tmp_path / "loop.jpg") == [tmp_path / "loop.jpg"]


@pytest.mark.parametrize(
    ("files", "file_format"),
    [
        (("x/a.jpg", "y/a.jpg", "z/A.JPG"), None),
        (("x/a.jpg", "x/a.png", "x/a-2.png"), "png"),
        (("x/a.jpg", "x/a.png", "x/a.webp", "x/a_compare.jpg"), "jpeg"),
        (("x/a.dng", "x/a.jpg", "y/a.NEF"), None),
        (("x/a.dng", "x/a.jpg"), "jpeg"),
    ],
)
@pytest.mark.parametrize("compare", [False, True])
def test_every_result_has_a_name_of_its_own(tmp_path, files, file_format, compare):
    make(tmp_path, *files)
    photos = [Found(tmp_path / name, Path(Path(name).name)) for name in files]
    for output in (tmp_path / "out", tmp_path / "x", None):
        jobs = plan_jobs(photos, output, file_format, compare)
        results = [os.path.normcase(path.resolve()).casefold() for job in jobs for path in job.results]
        sources = {os.path.normcase(photo.path.resolve()).casefold() for photo in photos}
        assert len(results) == len(files) * (1 + compare)
        assert len(set(results) | sources) == len(results) + len(sources)
        assert jobs == plan_jobs(photos, output, file_format, compare)


@pytest.mark.parametrize(
    ("converted", "file_format"), [("a.HEIC", None), ("a.CR2", "jpeg"), ("a.CR2", "png"), ("A.jpe", "jpeg")]
)
@pytest.mark.parametrize("output", [Path("out"), None])
def test_a_photo_that_joins_another_does_not_take_its_name(tmp_path, converted, file_format, output):
    """Else the next call would work on the other photo once more, and never on this one."""
    make(tmp_path, "in/a.JPG")
    (tmp_path / "in" / "a.JPG").write_bytes(b"\xff\xd8\xff\xe0")
    output = output and tmp_path / output
    (alone,) = targets([tmp_path / "in"], output, file_format=file_format)
    (tmp_path / "in" / converted).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    photos, _ = find_photos([str(tmp_path / "in")])
    results = {job.source.name: job.target for job in plan_jobs(photos, output, file_format)}
    assert results["a.JPG"] == alone
    assert results[converted].stem in ("a-2", "A-2")
    assert list(results) == sorted(results)


@pytest.mark.parametrize("output", [Path("out"), None])
def test_comparisons_change_no_other_name(tmp_path, output):
    """Else a call with them would work on photos once more that have a result."""
    make(tmp_path, "a.dng", "a.jpg", "a.png", "a_compare.jpg")
    photos, _ = find_photos([str(tmp_path / "*.*")])
    jobs = plan_jobs(photos, output, compare=True)
    assert [job.target for job in jobs] == [job.target for job in plan_jobs(photos, output)]
    assert len({job.comparison for job in jobs} - {job.target for job in jobs}) == len(photos)


def test_names_that_differ_in_case_or_ending_alone(tmp_path):
    names = ["A.JPG", "a.JPEG", "a.jpg", "a.png"]
    photos = [Found(tmp_path / name, Path(name)) for name in names]
    assert [job.target.name for job in plan_jobs(photos, tmp_path / "out")] == [
        "A.JPG",
        "a.JPEG",
        "a-2.jpg",
        "a.png",
    ]


def test_thousands_of_photos_of_one_name_get_numbers_in_no_time(monkeypatch):
    count, asked = 1000, []
    key = _files.file_key
    monkeypatch.setattr(_files, "file_key", lambda path: asked.append(path) or key(path))
    photos = [Found(Path(f"scene{number}", "a.jpg"), Path("a.jpg")) for number in range(count)]
    jobs = plan_jobs(photos, Path("out"))
    assert [job.target.name for job in jobs] == [
        "a.jpg",
        *(f"a-{number}.jpg" for number in range(2, count + 1)),
    ]
    assert len(asked) < 10 * count


def test_accents_that_macos_writes_as_letters_of_their_own(tmp_path):
    source = make(tmp_path, unicodedata.normalize("NFD", "é.png"))
    with pytest.raises(UsageError, match="would overwrite"):
        targets([next(source.iterdir())], tmp_path / "é.png")


def test_one_output_file_is_for_one_other_photo(tmp_path):
    make(tmp_path, "a.jpg", "b.jpg")
    assert targets([tmp_path / "a.jpg"], tmp_path / "new.png") == [tmp_path / "new.png"]
    with pytest.raises(UsageError, match="one file, but there are 2 photos"):
        targets([tmp_path / "a.jpg", tmp_path / "b.jpg"], tmp_path / "new.png")
    with pytest.raises(UsageError, match="would overwrite"):
        targets([tmp_path / "a.jpg"], tmp_path / "sub" / ".." / "a.jpg")
    with pytest.raises(UsageError, match="HEIC is read but not written"):
        targets([tmp_path / "a.jpg"], tmp_path / "new.heic", file_format="tiff")
    with pytest.raises(UsageError, match="DNG is read but not written"):
        targets([tmp_path / "a.jpg"], tmp_path / "new.dng")
    with pytest.raises(UsageError, match=r"BMP is not written.*\.png"):
        targets([tmp_path / "a.jpg"], tmp_path / "new.bmp")
    with pytest.raises(UsageError, match="MP4 is not written"):
        targets([tmp_path / "a.jpg", tmp_path / "b.jpg"], tmp_path / "clip.MP4")
    make(tmp_path, "shots.gif/keep.txt")
    assert targets([tmp_path / "a.jpg"], tmp_path / "shots.gif") == [tmp_path / "shots.gif" / "a.jpg"]
    make(tmp_path, "notes.txt")
    with pytest.raises(UsageError, match=r"notes\.txt is a file, and not of a photo"):
        targets([tmp_path / "a.jpg"], tmp_path / "notes.txt")
    with pytest.raises(UsageError, match="contradict"):
        targets([tmp_path / "a.jpg"], tmp_path / "new.png", file_format="tiff")
    assert targets([tmp_path / "a.jpg"], tmp_path / "new.jpeg", file_format="jpg") == [tmp_path / "new.jpeg"]


def full_disk(path):
    with atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_write_names_the_file(tmp_path):
    for target in (tmp_path / "state.pt", tmp_path / "missing" / "state.pt"):
        with pytest.raises(OSError, match=r"state\.pt") as caught:
            full_disk(target)
        assert caught.value.filename == str(target)
    assert not any(tmp_path.iterdir())
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder") as caught, atomic_write(tmp_path / "folder"):
        pass
    assert " -> " not in str(caught.value)


def test_a_folder_that_must_not_be_looked_into_is_named_as_the_user_does(tmp_path, monkeypatch):
    def locked(path, *_arguments, **_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", locked)
    monkeypatch.setattr(Path, "unlink", locked)
    with pytest.raises(PermissionError, match=r"a\.png") as caught, atomic_write(tmp_path / "a.png"):
        pass
    assert caught.value.filename == str(tmp_path / "a.png")


@pytest.mark.skipif(sys.platform == "win32", reason="links and permissions of POSIX")
def test_what_is_replaced_stays_a_link_and_keeps_its_permissions(tmp_path):
    make(tmp_path, "far/a.png")
    link, file = tmp_path / "link.png", tmp_path / "far" / "a.png"
    link.symlink_to(Path("far", "a.png"))
    file.chmod(0o640)
    with atomic_write(link) as stream:
        stream.write(b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.png", "far", "link.png"]
