import pytest
import torch
from messages import refused
from torch import nn

from cxrignite.engines import compile_model, compiler_errors_in_one_line
from cxrignite.errors import RecipeError


def test_compiling_leaves_the_model_as_it_is():
    model = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    before = list(model.state_dict())
    compiled = compile_model(model)
    assert list(model.state_dict()) == before
    assert [id(each) for each in compiled.parameters()] == [id(each) for each in model.parameters()]
    compiled.train(False)
    assert not model.training


def test_a_failure_of_the_compiler_is_one_line_that_says_how_to_do_without_it():
    from torch._dynamo.exc import BackendCompilerFailed

    cause = ValueError("no such kernel\nand a long story")
    error = BackendCompilerFailed(lambda: None, cause, None)
    with refused(RecipeError, "trainer.compile", "false") as caught, compiler_errors_in_one_line():
        raise error
    assert caught.value.__cause__ is error


def test_a_missing_compiler_is_named():
    from torch._inductor.exc import InvalidCxxCompiler

    facts = ["trainer.compile", "C++", "false"]
    with refused(RecipeError, *facts), compiler_errors_in_one_line():
        raise InvalidCxxCompiler


@pytest.mark.parametrize("error", [ValueError("a\nb"), KeyboardInterrupt(), RecipeError("x")])
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, compiler_errors_in_one_line():
        raise error
    assert caught.value is error


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_model_gives_the_logits_and_gradients_of_the_plain_one(monkeypatch, tmp_path):
    from cxrignite.nn import LightCNN

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    model = LightCNN(width=2, dropout=0.0)
    compiled = compile_model(model)
    images = torch.randint(0, 256, (6, 1, 32, 32), dtype=torch.uint8)
    for mode in (True, False):
        for size in (6, 5, 6):
            gradients = []
            for each in (model, compiled):
                each.train(mode)
                each.zero_grad()
                logits = each(images[:size])
                logits.sum().backward()
                gradients.append([logits, *(weight.grad for weight in each.parameters())])
            torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images), model(images))
