"""build_info and `aoq doctor`: what they say, and that they notice what is wrong."""

import pytest
import torch

import aoq_ext
from aoq_ext import doctor


def test_build_info_says_what_runs():
    info = aoq_ext.build_info()
    assert info["version"] == aoq_ext.__version__
    assert info["torch"] == torch.__version__
    assert info["CUDA compiled"] == "no" or info["CUDA architectures"]
    assert (info["CUDA compiled"] == "no") == bool(info["CUDA missing because"])
    assert "CPU kernels" in info


def test_nothing_is_wrong_here(capsys):
    assert doctor.main() == 0
    output = capsys.readouterr().out
    assert "Nothing is wrong." in output
    for name in ("torch", "compiled library", "CPU kernels", "CUDA", "training", "bundled data"):
        assert f" {name} " in output


@pytest.mark.parametrize(
    "broken",
    [
        lambda *rows: aoq_ext.reference.adaptive_quintuplet_loss(*rows) * 1.01,
        lambda *rows: aoq_ext.reference.adaptive_quintuplet_loss(*rows) * float("nan"),
        lambda *rows: aoq_ext.reference.adaptive_quintuplet_loss(*rows) + 1,
    ],
)
def test_a_wrong_kernel_is_found(broken, monkeypatch, capsys):
    monkeypatch.setattr(doctor.functional, "adaptive_quintuplet_loss", broken)
    assert doctor.main() == 1
    assert "✗ CPU kernels" in capsys.readouterr().out


def test_a_check_that_fails_by_itself_is_a_finding(monkeypatch, capsys):
    def _check_weather():
        raise OSError("no window")

    monkeypatch.setattr(doctor, "_CHECKS", (_check_weather,))
    assert doctor.main() == 1
    assert "✗ weather" in capsys.readouterr().out


def test_missing_training_packages_are_a_note_with_a_cure(monkeypatch):
    monkeypatch.setattr(doctor, "TRAIN_MODULES", {"no_such_module"})
    finding = doctor._check_training()
    assert finding.state == "note"
    assert "no_such_module" in finding.detail
    assert "aoq_ext[train]" in finding.cure


@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_is_compared_with_the_reference_or_gets_a_cure(compiled, monkeypatch):
    """A GPU is simulated: what runs there is the CPU's kernel."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(doctor.torch, "device", lambda *_: "cpu")
    monkeypatch.setattr(doctor.calls, "has_kernel", lambda tensor: compiled or tensor.numel() > 0)
    finding = doctor._check_cuda()
    assert finding.state == ("ok" if compiled else "note")
    assert ("agree with the reference" in finding.detail) == compiled
    assert ("AOQ_CUDA_ARCHS=90" in finding.cure) != compiled
