import pytest
import torch

from advkit._io.rng import repeatable

CPU = torch.device("cpu")


def drawn(seed, *names, device=CPU):
    with repeatable(seed, *names, device=device):
        return torch.rand(3, device=device)


def test_seed_and_names_say_what_is_drawn():
    first = drawn(0, 1, "FGSM")
    assert torch.equal(first, drawn(0, 1, "FGSM"))
    for other in ((1, 1, "FGSM"), (0, 2, "FGSM"), (0, 1, "PGD"), (0, 1, None)):
        assert not torch.equal(first, drawn(*other))


def test_the_default_generator_goes_on_where_it_was():
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    found = [torch.rand(2)]
    with pytest.raises(ValueError, match="x"), repeatable(5, device=CPU):
        raise ValueError("x")
    found.append(torch.rand(2))
    assert torch.equal(torch.cat(found), expected)


def test_without_a_seed_the_default_generator_runs_on():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn(None, device=CPU), expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu():
    device = torch.device("cuda")
    torch.cuda.manual_seed(0)
    expected = torch.rand(3, device=device)
    torch.cuda.manual_seed(0)
    assert torch.equal(drawn(0, device=device), drawn(0, device=device))
    assert torch.equal(torch.rand(3, device=device), expected)
