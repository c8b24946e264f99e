"""Modules inside what PyTorch does to modules: functional calls, compilation, export, copies, dtypes, meta, formats."""

from __future__ import annotations

import io
import pickle
from copy import deepcopy
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from nn_bound import allowed
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations

from triconv.torch import nn

GRAPH = np.tril(np.ones((6, 4), dtype=bool))
MODULES: dict[str, Any] = {
    "conv": lambda **made: nn.Conv2d(4, 6, 3, padding=1, stride=2, **made),
    "reflect": lambda **made: nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect", groups=2, **made),
    "graph": lambda **made: nn.Conv2d(4, 6, 3, groups=GRAPH, **made),
    "tiled": lambda **made: nn.Tiled(4, 6, (3, 3), (2, 3), **made),
    "local": lambda **made: nn.LocallyConnected(4, 6, (3, 3), visible_size=(8, 9), **made),
    "transpose": lambda **made: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, **made),
    "local transpose": lambda **made: nn.LocallyConnectedTranspose(4, 6, (3, 3), 2, visible_size=(17, 20), **made),
}


@pytest.fixture(params=list(MODULES))
def name(request: pytest.FixtureRequest) -> str:
    torch.manual_seed(0)
    return request.param


def given(dtype: Any = torch.float32) -> Tensor:
    return torch.randn(2, 4, 8, 9, generator=torch.Generator().manual_seed(1)).to(dtype)


def gradients(module: Any, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(module(x).square().sum(), list(module.parameters())))


def test_functional_call_and_vmap(name: str) -> None:
    """Other parameters, also several at once: an ensemble; and gradients by torch.func."""
    module, x = MODULES[name](dtype=torch.float64), given(torch.float64)
    others = [MODULES[name](dtype=torch.float64) for _ in range(3)]
    stacked, _ = torch.func.stack_module_state(others)

    def call(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(module, parameters, (x,))

    for one, result in zip(others, torch.vmap(call)(stacked), strict=True):
        oracle.assert_close(result.detach(), one(x).detach(), allowed(one, x))
    found = torch.func.grad(lambda parameters: call(parameters).square().sum())(dict(module.named_parameters()))
    for one, two in zip(found.values(), gradients(module, x), strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-9)


def test_vmap_over_biases_alone(name: str) -> None:
    """What they are added to has no room for a batch, so it cannot be done in place."""
    module, x = MODULES[name](dtype=torch.float64), given(torch.float64)
    biases = torch.randn(3, *module.bias.shape, dtype=torch.float64)
    results = torch.vmap(lambda bias: torch.func.functional_call(module, {"bias": bias}, (x,)))(biases)
    for bias, result in zip(biases, results, strict=True):
        expected = torch.func.functional_call(module, {"bias": bias}, (x,))
        module.bias.data.copy_(bias)
        oracle.assert_close(result.detach(), expected.detach(), allowed(module, x))


def test_compile_without_breaks(name: str) -> None:
    """The whole graph at once, the same numbers, and the same gradients."""
    module, x = MODULES[name](), given()
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    oracle.assert_close(compiled(x).detach(), module(x).detach(), allowed(module, x))
    for one, two in zip(gradients(compiled, x), gradients(module, x), strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-4)


def test_compile_waits_for_a_size() -> None:
    torch._dynamo.reset()
    module, x = nn.LocallyConnected(4, 6, (3, 3)), given()
    y = torch.compile(module, fullgraph=True, backend="aot_eager")(x)
    assert module.visible_size == (8, 9)
    oracle.assert_close(y.detach(), module(x).detach(), allowed(module, x))


def test_export(name: str) -> None:
    module, x = MODULES[name](), given()
    program = torch.export.export(module, (x,))
    assert set(program.state_dict) == {"weight", "bias"}
    oracle.assert_close(program.module()(x).detach(), module(x).detach(), allowed(module, x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_jit_trace(name: str) -> None:
    """Of the older tracer, for other examples of the same sizes; TensorBoard's graphs come from it, too."""
    module, x = MODULES[name](), given()
    traced = torch.jit.trace(module, x)
    assert torch.equal(traced(2 * x), module(2 * x))


@pytest.mark.parametrize("travel", ["deepcopy", "pickle", "torch.save", "state_dict"])
def test_copies(name: str, travel: str) -> None:
    module, x = MODULES[name](), given()
    if travel == "deepcopy":
        copy = deepcopy(module)
    elif travel == "pickle":
        copy = pickle.loads(pickle.dumps(module))
    else:
        torch.save(module if travel == "torch.save" else module.state_dict(), file := io.BytesIO())
        file.seek(0)
        found = torch.load(file, weights_only=travel == "state_dict")
        copy = found if travel == "torch.save" else MODULES[name]()
        if travel == "state_dict":
            copy.load_state_dict(found)
    assert repr(copy) == repr(module)
    assert torch.equal(copy(x), module(x))
    with torch.no_grad():
        copy.weight.zero_()
    assert not torch.equal(copy(x), module(x))


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64], ids=str)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    """Made in a dtype or cast to it, the result has it: rounded once from the wider computation."""
    x, module = given(dtype), MODULES[name]()
    cast = deepcopy(module).to(dtype)
    assert MODULES[name](dtype=dtype)(x).dtype is dtype
    y = cast(x)
    assert y.dtype is dtype
    wide = torch.complex128 if dtype.is_complex else torch.float64
    expected = deepcopy(cast).to(wide)(x.to(wide))
    eps = torch.finfo(dtype).eps
    # A rounding of the sum, one of the bias' sum, and the sum's own in float32 or better.
    bound = 2 * eps * (expected.abs() + 1) + allowed_wide(cast, x)
    assert ((y.to(wide) - expected).abs() <= bound).all()


def allowed_wide(module: Any, x: Tensor) -> Tensor:
    """The bound of a sum in float32 (or the dtype, where it is wider) over magnitudes."""
    twin = deepcopy(module).to(torch.float64) if not x.is_complex() else deepcopy(module)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(parameter.abs())
    magnitude = twin(x.abs().to(twin.weight.dtype)).abs()
    kind = np.float64 if x.dtype is torch.float64 else np.float32
    bound: Tensor = oracle.bound(module.weight.numel(), magnitude, kind)
    return bound


def test_autocast(name: str) -> None:
    """As PyTorch's own convolutions: the lower dtype comes out, bias and all."""
    module, x = MODULES[name](), given()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    assert y.dtype is torch.bfloat16
    assert ((y.double() - module(x).double()).abs() <= 0.05 * (module(x).abs() + 1)).all()
    y.float().sum().backward()
    assert module.bias.grad.dtype is torch.float32


def test_meta_and_to_empty(name: str) -> None:
    """Made without memory, then with it: shapes, order in memory, and values as if made there."""
    module = MODULES[name](device="meta")
    assert all(one.is_meta for one in module.parameters())
    assert module(given().to("meta")).shape == MODULES[name]()(given()).shape
    module = module.to_empty(device="cpu")
    torch.manual_seed(5)
    module.reset_parameters()
    torch.manual_seed(5)
    made = MODULES[name]()
    assert module.weight.stride() == made.weight.stride()
    assert torch.equal(module(given()), made(given()))


def test_weight_norm(name: str) -> None:
    """A weight that is computed from others, trained, and put back."""
    module, x = MODULES[name](), given()
    before = module(x).detach()
    parametrizations.weight_norm(module)
    assert {key for key, _ in module.named_parameters()} >= {"bias", "parametrizations.weight.original0"}
    assert torch.allclose(module(x), before, rtol=1e-4, atol=1e-5)
    module(x).square().sum().backward()
    assert module.parametrizations.weight.original0.grad.abs().sum() > 0
    torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
    assert torch.allclose(module(x), before, rtol=1e-4, atol=1e-5)


def test_channels_last(name: str) -> None:
    """What comes in with the channels innermost goes out so; a model's .to(memory_format=…) does not matter."""
    module, x = MODULES[name](), given()
    last = x.to(memory_format=torch.channels_last)
    y = module(last)
    assert y.is_contiguous(memory_format=torch.channels_last)
    oracle.assert_close(y.detach(), module(x).detach(), allowed(module, x))
    if module.weight.ndim <= 4:
        moved = deepcopy(module).to(memory_format=torch.channels_last)
        oracle.assert_close(moved(last).detach(), module(x).detach(), allowed(module, x))


def test_bias_does_not_change_what_is_shared(name: str) -> None:
    """The bias is added in place, to a result that nobody else has."""
    module, x = MODULES[name](), given().requires_grad_()
    kept, weight = x.detach().clone(), module.weight.detach().clone()
    with torch.no_grad():
        first = module(x)
        copy = first.clone()
        module(x)
    assert torch.equal(first, copy)
    assert torch.equal(x, kept)
    assert torch.equal(module.weight, weight)
    y = module(x)
    one, two = (torch.autograd.grad(y.sum(), [x, module.bias], retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, one, two))


def test_second_order(name: str) -> None:
    """A gradient penalty through the module, against finite differences."""
    module = MODULES[name](dtype=torch.float64)
    x = given(torch.float64)[:1].requires_grad_()

    def penalty(x: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(module(x).pow(3).sum(), x, create_graph=True)
        return gradient.square().sum()

    assert torch.autograd.gradcheck(penalty, x, fast_mode=True)


def test_checkpointing(name: str) -> None:
    from torch.utils.checkpoint import checkpoint

    module, x = MODULES[name](), given().requires_grad_()
    expected = gradients(module, x)
    y = checkpoint(module, x, use_reentrant=False)
    found = torch.autograd.grad(y.square().sum(), list(module.parameters()))
    assert all(map(torch.equal, found, expected))


def test_max_pool_composes() -> None:
    torch._dynamo.reset()
    module, x = nn.MaxPool((2, 3), stride=1, return_indices=True), given()
    for way in (
        torch.compile(module, fullgraph=True, backend="aot_eager"),
        torch.export.export(module, (x,)).module(),
        deepcopy(module),
        pickle.loads(pickle.dumps(module)),
    ):
        assert all(map(torch.equal, way(x), module(x)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator that PyTorch sees")
def test_on_an_accelerator(name: str) -> None:
    """Moved or made there: the same numbers to rounding; a channel graph stays on the processor."""
    module, x = MODULES[name](dtype=torch.float64), given(torch.float64)
    there = deepcopy(module).cuda()
    assert MODULES[name](device="cuda").weight.is_cuda
    oracle.assert_close(there(x.cuda()).detach().cpu(), module(x).detach(), allowed(module, x))
    for one, two in zip(gradients(there, x.cuda()), gradients(module, x), strict=True):
        assert torch.allclose(one.cpu(), two, rtol=1e-9, atol=1e-9)


class Every(torch.nn.Module):
    """Every kind of module, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            torch.nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Tiled(8, 8, (3, 3), 2, padding=1),
            nn.Conv2d(8, 8, 1, groups=np.tril(np.ones((8, 8), dtype=bool))),
            torch.nn.ReLU(),
            nn.LocallyConnected(8, 8, (3, 3), padding=1, visible_size=(4, 4)),
            nn.ConvTranspose2d(8, 4, 3, 2, 1, 1),
            nn.LocallyConnectedTranspose(4, 3, (2, 2), visible_size=(9, 9)),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


def close(one: Tensor, two: Tensor) -> bool:
    """Compiled and plain calls do the same additions in the same order, but for those that a compiler merges."""
    return torch.allclose(one, two, rtol=1e-5, atol=1e-5)


def test_a_model_compiles_once_for_all_batches() -> None:
    """One graph for the first size, a second for any batch, and none after."""
    torch._dynamo.reset()
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model = Every()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    counts = []
    for examples in (2, 2, 3, 5, 7):
        x = torch.randn(examples, 3, 8, 8)
        assert close(compiled(x), model(x))
        counts.append(len(graphs))
    assert counts == [1, 1, 2, 2, 2]


def test_a_model_exports_for_all_batches() -> None:
    model = Every()
    program = torch.export.export(
        model, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim.AUTO},)
    ).module()
    for examples in (2, 5):
        x = torch.randn(examples, 3, 8, 8)
        assert close(program(x), model(x))


def test_fx_traces_modules_as_nodes() -> None:
    """What torch.fx builds from a symbolic trace, as feature extractors do: no look at shapes gets in its way."""
    model = Every()
    traced = torch.fx.symbolic_trace(model)
    for examples in (2, 5):
        x = torch.randn(examples, 3, 8, 8)
        assert torch.equal(traced(x), model(x))
    assert torch.equal(deepcopy(traced)(x), model(x))


def test_sizes_may_be_symbols() -> None:
    """An output size is computed from symbols, not kept for them."""
    module = nn.ConvTranspose2d(2, 2, 3, 2, 1, 1)

    def call(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(module, parameters, (x,))

    parameters = {name: one.detach() for name, one in module.named_parameters()}
    graph = make_fx(call, tracing_mode="symbolic")(parameters, torch.randn(2, 2, 4, 5))
    x = torch.randn(3, 2, 7, 6)
    assert torch.equal(graph(parameters, x), module(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_model_through_the_default_compiler() -> None:
    """Inductor, forward and backward."""
    torch._dynamo.reset()
    model, x = Every(), torch.randn(2, 3, 8, 8)
    compiled = torch.compile(model, fullgraph=True)
    assert close(compiled(x), model(x))
    for one, two in zip(gradients(compiled, x), gradients(model, x), strict=True):
        assert torch.allclose(one, two, rtol=1e-3, atol=1e-3)
