import contextlib

import pytest
import torch
from messages import line_with, refused

from cxrignite.engines import choose_precision


def set_cpu(monkeypatch, *, amx, avx512_bf16):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512_bf16)


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "name", "word"),
    [
        (True, True, "bf16", "AMX"),
        (False, True, "bf16", "AVX512-BF16"),
        (False, False, "fp32", "bf16"),
    ],
)
def test_auto_takes_bf16_only_on_a_cpu_that_has_it(monkeypatch, amx, avx512_bf16, name, word):
    set_cpu(monkeypatch, amx=amx, avx512_bf16=avx512_bf16)
    precision = choose_precision("auto", "cpu")
    assert precision.name == name
    line_with(precision.reason, word)
    assert not precision.use_scaler


def test_torch_still_has_the_private_functions_that_auto_asks():
    assert isinstance(torch.cpu._is_amx_tile_supported(), bool)
    assert isinstance(torch.cpu._is_avx512_bf16_supported(), bool)


def test_auto_is_fp32_if_torch_has_no_such_check(monkeypatch):
    monkeypatch.delattr("torch.cpu._is_amx_tile_supported")
    monkeypatch.delattr("torch.cpu._is_avx512_bf16_supported")
    assert choose_precision("auto", "cpu").name == "fp32"


@pytest.mark.parametrize(
    ("capability", "name", "use_scaler"), [((9, 0), "bf16", False), ((7, 5), "fp16", True)]
)
def test_auto_goes_by_the_capability_of_a_cuda_device(monkeypatch, capability, name, use_scaler):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _device: capability)
    precision = choose_precision("auto", "cuda:0")
    assert (precision.name, precision.use_scaler) == (name, use_scaler)
    line_with(precision.reason, "CUDA", f"{capability[0]}.{capability[1]}")


def test_another_device_gets_fp32():
    assert choose_precision("auto", "mps").name == "fp32"


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_computes_in_the_named_format(name, dtype):
    precision = choose_precision(name, torch.device("cpu"))
    line_with(precision.reason)
    with precision.autocast("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert isinstance(choose_precision("fp32", "cpu").autocast("cpu"), contextlib.nullcontext)


def test_fp16_needs_cuda():
    with refused(ValueError, "fp16", "CUDA", "cpu"):
        choose_precision("fp16", "cpu")
    assert choose_precision("fp16", "cuda").use_scaler


def test_an_unknown_name_is_refused():
    with refused(ValueError, "fp32", "bf16", "fp16", "'half'"):
        choose_precision("half", "cpu")
