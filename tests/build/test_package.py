"""What `pip install .` makes: under build isolation, one wheel for every Python, loading where it should."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "aoq_command.py",
    "aoq_ext",
    "build_backend",
    "csrc",
    "CMakeLists.txt",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "setup.py",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the sources without anything built."""
    copy = tmp_path_factory.mktemp("source")
    exclude = ["--exclude=*.so", "--exclude=__pycache__", "--exclude=*.egg-info"]
    archive = subprocess.run(["tar", "-C", ROOT, *exclude, "-c", *SOURCES], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-C", copy, "-x"], input=archive, check=True)
    return copy


def build(source, output, **environment):
    """`pip wheel` under build isolation, with the constraints of the project."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", output, source]
    settings = {"AOQ_BUILD_CUDA": "0", "PIP_CONSTRAINT": str(ROOT / "constraints.txt"), **environment}
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, check=False)


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("wheel")
    result = build(source, output)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = output.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel, unpacked where a test can put it first on the path."""
    target = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(target)
    return target


def python(code, path, **environment):
    settings = os.environ | {"PYTHONPATH": str(path)} | environment
    return subprocess.run(
        [sys.executable, "-c", code], cwd=path, capture_output=True, text=True, env=settings, check=False
    )


def test_one_wheel_for_every_python(wheel):
    assert re.fullmatch(r"aoq_ext-[\d.]+-py3-none-linux_x86_64\.whl", wheel.name)


def test_the_wheel_holds_what_users_need(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("libaoq.so", "py.typed", "data/icons/LICENSES.md", "cli.py"):
        assert f"aoq_ext/{name}" in names
    assert not [name for name in names if name.startswith(("tests/", "csrc/", "build_backend/"))]


def test_the_library_links_neither_python_nor_cuda(installed):
    dynamic = subprocess.run(["readelf", "-d", installed / "aoq_ext/libaoq.so"], capture_output=True, text=True).stdout
    needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic)
    assert "libtorch_cpu.so" in needed
    assert not [name for name in needed if "python" in name or "cuda" in name or "c10" in name]


def test_the_library_asks_torch_for_its_stable_interface_alone(installed):
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", installed / "aoq_ext/libaoq.so"], capture_output=True, text=True, check=True
    ).stdout.split()
    torch_symbols = [name for name in symbols if "torch" in name or "c10" in name or "at4" in name]
    assert torch_symbols
    assert all(name.startswith(("torch_", "aoti_torch_")) for name in torch_symbols)


def test_the_installed_package_works(installed, tmp_path):
    code = (
        "import torch, aoq_ext\n"
        "rows = [torch.randn(5, 4).requires_grad_() for _ in range(6)]\n"
        "aoq_ext.AdaptiveQuintupletLoss()(*rows).backward()\n"
        "print(aoq_ext.__file__)"
    )
    result = python(code, installed)
    assert result.returncode == 0, result.stderr
    assert str(installed) in result.stdout


def test_a_missing_library_is_an_import_error_with_a_cure(installed, tmp_path):
    package = tmp_path / "aoq_ext"
    subprocess.run(["cp", "-r", installed / "aoq_ext", package], check=True)
    (package / "libaoq.so").unlink()
    result = python("import aoq_ext", tmp_path)
    assert "ImportError: the compiled library libaoq.so is not beside aoq_ext" in result.stderr
    assert "pip install ." in result.stderr


def test_a_damaged_library_is_an_import_error_with_a_cure(installed, tmp_path):
    package = tmp_path / "aoq_ext"
    subprocess.run(["cp", "-r", installed / "aoq_ext", package], check=True)
    (package / "libaoq.so").write_bytes(b"not a library")
    result = python("import aoq_ext", tmp_path)
    assert "ImportError" in result.stderr
    assert "reinstall aoq_ext" in result.stderr


def test_an_old_torch_is_an_import_error_with_a_cure(installed):
    result = python("import torch; torch.__version__ = '2.10.1'; import aoq_ext", installed)
    assert "ImportError: aoq_ext needs torch 2.11 or later, found 2.10.1" in result.stderr
    assert "pip install --upgrade" in result.stderr


def test_an_old_torch_stops_the_build_with_one_sentence(source, tmp_path):
    fake = tmp_path / "torch"
    (fake / "include").mkdir(parents=True)
    (fake / "version.py").write_text("__version__ = '2.10.0'\n")
    result = run_setup(source, PYTHONPATH=str(tmp_path))
    assert "aoq_ext: torch 2.10.0 is too old; run `pip install --upgrade 'torch>=2.11'`." in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_compiler_stops_the_build_with_one_sentence(source, tmp_path):
    result = run_setup(source, PATH=str(tmp_path), CXX="")
    assert "aoq_ext: no C++ compiler was found; install g++ 11 or later" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_cmake_stops_the_build_with_one_sentence(source, tmp_path):
    """Run by a Python with setuptools beside which no cmake lies."""
    path = tmp_path / "path"
    (path / "torch/include").mkdir(parents=True)
    (path / "torch/version.py").write_text("__version__ = '2.13.0'\n")
    packages = Path(__import__("setuptools").__file__).parents[1]
    for folder in [packages / "_distutils_hack", *packages.glob("setuptools*")]:
        (path / folder.name).symlink_to(folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    settings = os.environ | {"AOQ_BUILD_CUDA": "0", "PYTHONPATH": str(path), "PATH": str(tmp_path)}
    command = [tmp_path / "bare/bin/python", "setup.py", "build_ext"]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True, env=settings, check=False)
    assert "aoq_ext: cmake was not found; install CMake 3.24 or later (`pip install cmake`)." in result.stderr
    assert "Traceback" not in result.stderr


def test_required_cuda_that_is_missing_stops_the_build(source, tmp_path):
    environment = {"AOQ_BUILD_CUDA": "1", "AOQ_REQUIRE_CUDA": "1", "CUDA_HOME": str(tmp_path), "PATH": str(tmp_path)}
    result = run_setup(source, **environment)
    assert "AOQ_REQUIRE_CUDA=1, but nvcc was not found" in result.stderr


def test_malformed_settings_stop_the_build(source, tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh")
    nvcc.chmod(0o755)
    for settings, message in (
        ({"AOQ_CUDA_ARCHS": "sm_90", "CUDACXX": str(nvcc)}, "AOQ_CUDA_ARCHS must look like '80;90a', got 'sm_90'"),
        ({"CUDACXX": "no-such-nvcc"}, "CUDACXX must name an nvcc that can be run, got 'no-such-nvcc'"),
        ({"CXX": "no-such-compiler", "AOQ_BUILD_CUDA": "0"}, "CXX must name a C++ compiler that can be run"),
    ):
        result = run_setup(source, **{"AOQ_BUILD_CUDA": "1"} | settings)
        assert message in result.stderr
        assert "Traceback" not in result.stderr


def test_the_command_speaks_when_the_package_cannot_be_imported(installed, tmp_path):
    for name in ("aoq_ext", "aoq_command.py"):
        subprocess.run(["cp", "-r", installed / name, tmp_path / name], check=True)
    (tmp_path / "aoq_ext/libaoq.so").unlink()
    code = "import aoq_command, sys; sys.argv[1:] = [{!r}]; sys.exit(aoq_command.main())"
    result = python(code.format("doctor"), tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("✗ aoq_ext cannot be imported: the compiled library libaoq.so is not beside")
    assert "usage: aoq COMMAND" in python(code.format("--help"), tmp_path).stdout


def test_a_second_installation_in_one_process_is_an_import_error(installed, tmp_path):
    subprocess.run(["cp", installed / "aoq_ext/libaoq.so", tmp_path / "other.so"], check=True)
    result = python(f"import torch; torch.ops.load_library({str(tmp_path / 'other.so')!r}); import aoq_ext", installed)
    assert "ImportError: another library with the operators of aoq_ext is loaded already" in result.stderr


def run_setup(source, **environment):
    command = [sys.executable, "setup.py", "build_ext"]
    settings = os.environ | {"AOQ_BUILD_CUDA": "0"} | environment
    return subprocess.run(command, cwd=source, capture_output=True, text=True, env=settings, check=False)


def test_the_backend_asks_for_torch_only_where_there_is_none(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'build_backend')!r}); import backend; " + (
        "print(backend.get_requires_for_build_wheel())"
    )
    command = [sys.executable, "-c", code]
    with_torch = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "torch" not in with_torch
    venv = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    setuptools = Path(__import__("setuptools").__file__).parents[1]
    settings = os.environ | {"PYTHONPATH": str(tmp_path / "path")}
    (tmp_path / "path").mkdir()
    for folder in [setuptools / "_distutils_hack", *setuptools.glob("setuptools*")]:
        (tmp_path / "path" / folder.name).symlink_to(folder)
    bare = subprocess.run(
        [venv / "bin/python", "-c", code], cwd=ROOT, env=settings, capture_output=True, text=True, check=False
    )
    assert "torch>=2.11" in bare.stdout, bare.stderr
