import pytest
import torch

from glied.captioner.token_selection import ROWS, best_words, log_normalizers


@pytest.mark.parametrize("size", [7, 64, 640, 1003, 9488])
@pytest.mark.parametrize("count", [1, 6, 10])
def test_best_words_equal_those_of_a_full_sort(size, count):
    generator = torch.Generator().manual_seed(size)
    table = torch.randn(3, 5, size, generator=generator).log_softmax(-1)
    table[0, :, : size // 2] = -torch.inf
    scores = torch.randn(3, 5, generator=generator)
    scores[1, 2:] = -torch.inf
    totals, beams, words = best_words(table, scores, count)
    expected, place = (table + scores[..., None]).flatten(1).sort(dim=1, descending=True)
    torch.testing.assert_close(totals, expected[:, :count], rtol=0, atol=0)
    assert (beams == place[:, :count] // size).all()
    assert (words == place[:, :count] % size).all()


def test_best_words_are_filled_up():
    totals, beams, words = best_words(torch.zeros(2, 1, 3), torch.zeros(2, 1), 5)
    assert totals.isfinite().sum(dim=1).tolist() == [3, 3]
    assert (beams == 0).all()
    assert (words < 3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_normalizers_equal_those_of_a_log_softmax(dtype):
    logits = 30 * torch.randn(ROWS + 3, 5, 1003, generator=torch.Generator().manual_seed(0))
    logits[0, 0, 0] = -300.0  # the difference is in a very improbable word
    logits = logits.to(dtype)
    expected = logits.double().logsumexp(-1).float()
    found = log_normalizers(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
