"""run.py: what it installs, when it does not, and what it says when it cannot."""

import importlib.util
import os
import subprocess
import sys

import pytest


@pytest.fixture
def script(repository, tmp_path, monkeypatch):
    """run.py as a module whose checkout is a temporary folder and whose programs do not run but are recorded."""
    spec = importlib.util.spec_from_file_location("run_script", repository / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("torch\n")
    module.calls, module.failing = [], ()

    def record(command, **_options):
        module.calls.append(command)
        if any(part in command for part in module.failing):
            return 1
        if "venv" in command:
            module.PYTHON.parent.mkdir(parents=True, exist_ok=True)
            module.PYTHON.touch()
        return 0

    monkeypatch.setattr(module.subprocess, "call", record)
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.chdir(tmp_path)
    return module


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    script.calls.clear()
    return script.main()


def pip_calls(script):
    return [call for call in script.calls if "-e" in call]


def test_first_call_installs_and_runs_the_demo(script, monkeypatch, tmp_path):
    assert run(script, monkeypatch) == 0
    venv, pip, native, command = script.calls
    assert venv == [sys.executable, "-m", "venv", "--clear", str(tmp_path / ".venv")]
    assert pip[-4:] == ["-c", str(tmp_path / "constraints.txt"), "-e", f"{tmp_path}[cli]"]
    assert native[-1] == str(tmp_path / "native")
    assert command[1:] == ["-m", "semillie_core.cli", "demo"]


def test_later_calls_need_no_pip(script, monkeypatch):
    run(script, monkeypatch)
    assert run(script, monkeypatch, "enhance", "a b.jpg", "-o", "out") == 0
    assert [call[1:] for call in script.calls] == [
        ["-m", "semillie_core.cli", "enhance", "a b.jpg", "-o", "out"]
    ]


def test_a_folder_that_was_moved_runs_its_own_code(script, monkeypatch, tmp_path):
    run(script, monkeypatch)
    moved = tmp_path / "moved"
    monkeypatch.setattr(script, "ROOT", moved)
    monkeypatch.setattr(script, "is_installed", lambda _: True)
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    assert run(script, monkeypatch, "doctor") == 0
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(moved), "elsewhere"]


def test_the_development_installation_serves_the_command_line_too(script, monkeypatch):
    assert run(script, monkeypatch, "test", "-k", "scan") == 0
    assert pip_calls(script)[0][-1].endswith("[dev]")
    assert script.calls[-1][1:3] == ["-m", "pytest"]
    assert script.calls[-1][-2:] == ["-k", "scan"]
    run(script, monkeypatch, "demo")
    assert pip_calls(script) == []


def test_the_command_line_does_not_suffice_for_tests(script, monkeypatch):
    run(script, monkeypatch, "demo")
    run(script, monkeypatch, "test")
    assert len(pip_calls(script)) == 1


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "native/scan.c"])
def test_changed_requirements_are_installed(script, monkeypatch, tmp_path, name):
    (tmp_path / "native").mkdir()
    run(script, monkeypatch)
    (tmp_path / name).write_text("changed")
    run(script, monkeypatch)
    assert len(pip_calls(script)) == 1
    assert not any("--clear" in call for call in script.calls)


def test_an_environment_without_pip_or_of_another_python_is_made_anew(script, monkeypatch, tmp_path):
    run(script, monkeypatch)
    (tmp_path / "pyproject.toml").write_text("changed")
    script.failing = ("-c",)
    with pytest.raises(SystemExit):  # pip's own -c fails as well
        run(script, monkeypatch)
    assert any("--clear" in call for call in script.calls)


def test_a_failed_installation_is_tried_again(script, monkeypatch):
    script.failing = ("install",)
    with pytest.raises(SystemExit, match="network"):
        run(script, monkeypatch)
    script.failing = ()
    run(script, monkeypatch)
    assert len(pip_calls(script)) == 1


def test_without_a_compiled_scan_it_goes_on_and_says_so(script, monkeypatch, tmp_path, capsys):
    script.failing = (str(tmp_path / "native"),)
    assert run(script, monkeypatch) == 0
    assert "plain PyTorch is used" in capsys.readouterr().out
    run(script, monkeypatch)
    assert len(script.calls) == 1


def test_a_missing_venv_module_names_the_package(script, monkeypatch):
    script.failing = ("venv",)
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        run(script, monkeypatch)


def test_help_installs_nothing(script, monkeypatch, capsys):
    assert run(script, monkeypatch, "--help") == 0
    assert script.calls == []
    assert "python3 run.py test" in capsys.readouterr().out


def test_an_old_python_is_told_so(repository, tmp_path):
    old = "import sys; sys.version_info = (3, 8, 0); sys.version = '3.8.0 (old)'; exec(open(sys.argv[1]).read())"
    result = subprocess.run(
        [sys.executable, "-c", old, str(repository / "run.py")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.strip() == "Semi-LLIE needs Python 3.10 or newer; this is 3.8.0."


def test_it_parses_on_old_pythons(repository):
    import ast

    ast.parse((repository / "run.py").read_text(encoding="utf-8"), feature_version=(3, 8))
