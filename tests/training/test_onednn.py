import pytest
import torch
from torch import nn

from glied.training import onednn
from glied.training.onednn import SMALLEST, onednn_products

CPU = torch.device("cpu")


def gradients(rows: int, *, dtype: torch.dtype = torch.float32, bf16: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64, bias=False)).to(dtype)
    x = torch.randn(rows, 64, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = model(x)
    y.float().square().sum().backward()
    return [y.detach(), x.grad, *(one.grad for one in model.parameters())]


@pytest.mark.parametrize("rows", [1, 3, 200, 0])
@pytest.mark.parametrize("bf16", [False, True])
def test_gradients_equal_those_of_torch(rows, bf16):
    assert 3 * 64 * 96 < SMALLEST < 200 * 64 * 96
    expected = gradients(rows, bf16=bf16)
    with onednn_products(CPU):
        found = gradients(rows, bf16=bf16)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-5)


def test_other_products_are_not_replaced():
    expected = gradients(200, dtype=torch.float64)
    a, b, c = torch.randn(200, 64), torch.randn(64, 96), torch.randn(200, 96)
    with onednn_products(CPU):
        found = gradients(200, dtype=torch.float64)
        scaled, whole = torch.addmm(c[0], a, b, beta=2, alpha=3), torch.addmm(c, a, b)
        one = torch.addmm(c[0, :1], a, b)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(scaled, 2 * c[0] + 3 * (a @ b), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(whole, c + a @ b, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(one, c[0, 0] + a @ b, atol=1e-4, rtol=1e-5)


def test_the_kernels_are_restored_after_the_context(monkeypatch):
    seen = []
    monkeypatch.setattr(onednn, "_pays", lambda a, b: seen.append(a.shape) or False)
    with onednn_products(CPU):
        torch.ones(2, 3) @ torch.ones(3, 4)
    with pytest.raises(ValueError, match="here"), onednn_products(CPU):
        raise ValueError("here")
    torch.ones(5, 3) @ torch.ones(3, 4)
    assert seen == [(2, 3)]
