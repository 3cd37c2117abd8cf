"""Who computes a bfloat16 sampler's steps, for tests that hold for both."""

import pytest

from superrl.sampling import native


@pytest.fixture(params=["ours", "torchs"])
def either_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with our own kernels, once without."""
    if request.param == "torchs":
        monkeypatch.setattr("superrl.sampling.local.kernels_for", lambda model: None)
    elif native.kernels(32, 2) is None:
        pytest.skip("our own kernels need gcc, and a CPU with avx512_bf16")
