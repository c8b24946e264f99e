"""torch.compile and torch.export: no graph breaks, the same numbers, and nothing compiled again for the same shapes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import grad, hessian, jvp, vmap

import triconv.torch as tt

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(is deprecated|deprecated in favor):DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*(is deprecated|deprecated in favor):FutureWarning"),
]
"""PyTorch's own."""


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch.manual_seed(0)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


GRAPH = np.random.default_rng(0).random((6, 4)) > 0.4
LISTED = GRAPH.tolist()
RANDOM = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    """In float64, as compiled code may sum in another order."""
    return torch.randn(*shape, generator=RANDOM, dtype=torch.float64)


V, W, H = normal(2, 4, 7, 6), normal(6, 2, 3, 3), normal(2, 6, 5, 4)
DENSE, BANK = normal(6, 4, 3, 3), normal(3, 2, 6, 2, 3, 3)


def autoencoder(v: Tensor, w: Tensor) -> Tensor:
    h, indices = tt.max_pool(tt.conv(v, w, stride=2, padding="same", groups=2).relu(), 2, stride=1)
    back = tt.max_pool_transpose(h, indices, (4, 3))
    return tt.conv_transpose(back, w, stride=2, padding="same", groups=2, visible_size=v.shape[2:])


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "autoencoder": (autoencoder, (V, W)),
    "channels last": (autoencoder, (V.to(memory_format=torch.channels_last), W)),
    "one channel, channels last": (lambda v, w: tt.conv(v * 2, w).relu(), (normal(2, 7, 6, 1).movedim(-1, 1),
                                                                           DENSE[:, :1].contiguous())),
    "graph as a tensor": (lambda v, w: tt.conv(v, w, groups=torch.from_numpy(GRAPH), padding=((1, 2), (0, 1))),
                          (V, DENSE)),
    "graph as an array": (lambda v, w: tt.conv(v, w, groups=GRAPH, border="reflect", padding=2), (V, DENSE)),
    "graph as a list": (lambda v, w: tt.conv(v, w, groups=LISTED), (V, DENSE)),
    "bank": (lambda v, w: tt.conv(v, w, groups=2, border=("circular", "replicate"), padding=1), (V, BANK)),
    "weight": (lambda v, h: tt.conv_weight(v, h, 3, bank="local", groups=2), (V, H)),
    "smallest visible": (lambda h, w: tt.conv_transpose(h, w, groups=2, stride=2, padding="same"), (H, W)),
    "gradient": (lambda v, w: grad(lambda v: (autoencoder(v, w) ** 2).sum())(v), (V, W)),
    "tangent": (lambda v, w: jvp(lambda v: autoencoder(v, w), (v,), (torch.ones_like(v),))[1], (V, W)),
    "batch": (lambda v, w: vmap(autoencoder, (None, 0))(v, w), (V, torch.stack([W, 2 * W]))),
    "hessian": (lambda v, w: hessian(lambda v: (tt.conv(v, w, padding=1) ** 2).sum())(v), (V[:1, :2, :3, :3],
                                                                                         W)),
}  # fmt: skip


def same(function: Callable[..., Tensor], compiled: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> None:
    """The value and the gradients."""

    def results(function: Callable[..., Tensor]) -> list[Tensor]:
        given = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in arguments]
        value = function(*given)
        return [value, *torch.autograd.grad((value**2).sum(), given)]

    for found, expected in zip(results(compiled), results(function), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_graph_forward_and_backward(name: str, dynamic: bool | None) -> None:
    function, arguments = FUNCTIONS[name]
    same(function, torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic), arguments)


@pytest.mark.parametrize("name", ["autoencoder", "channels last", "one channel, channels last", "graph as a tensor"])
def test_with_generated_code(name: str) -> None:
    """PyTorch's own compiler checks the memory order that an operator promises."""
    function, arguments = FUNCTIONS[name]
    same(function, torch.compile(function, fullgraph=True), arguments)


def test_compiled_again_only_for_other_shapes() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, _example: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled = torch.compile(autoencoder, fullgraph=True, backend=count)
    for _ in range(3):
        compiled(V, W)
    assert len(graphs) == 1
    for examples in (3, 4, 5, 9):  # the second size makes a graph for all
        v = normal(examples, *V.shape[1:])
        torch.testing.assert_close(compiled(v, W), autoencoder(v, W))
    assert len(graphs) == 2
    seen = [node.target for node in graphs[0].graph.nodes if node.op == "call_function"]
    for name in ("conv", "conv_transpose", "max_pool", "max_pool_transpose"):
        assert getattr(torch.ops.triconv, name).default in seen


SIZED: dict[str, Callable[..., Tensor]] = {
    "visible size": lambda n: tt.conv_transpose(torch.ones(2, 6, n // 2, n // 2).double(), DENSE, stride=2,
                                                visible_size=n),
    "visible sizes": lambda n: tt.conv_transpose(torch.ones(2, 6, n // 2, n // 2).double(), DENSE, stride=2,
                                                 visible_size=(n + 0, n)),
    "output size": lambda n: TRANSPOSE(torch.ones(2, 6, n // 2, n // 2), output_size=(n, n)),
    "kernel size": lambda n: tt.conv_weight(V.new_ones(2, 4, 20, 20), V.new_ones(2, 6, 21 - n, 21 - n), n),
    "bank": lambda n: tt.conv_weight(V.new_ones(2, 4, 20, 20), V.new_ones(2, 6, 18, 18), 3, bank=n),
    "pooled": lambda n: tt.max_pool_transpose(*tt.max_pool(V.new_ones(2, 4, n, n), 2), n),
}  # fmt: skip
TRANSPOSE = tt.nn.ConvTranspose2d(6, 4, 3, stride=2)


@pytest.mark.parametrize("name", SIZED)
def test_sizes_that_a_user_gives_stay_symbols(name: str) -> None:
    """Other numbers for them are no reason to compile again."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(SIZED[name], fullgraph=True, backend=counter, dynamic=True)
    for size in (5, 7, 9, 11, 13):
        torch.testing.assert_close(compiled(size), SIZED[name](size))
    assert counter.frame_count == 1


def test_options_that_change_are_compiled_again() -> None:
    compiled = torch.compile(lambda v, w, stride: tt.conv(v, w, stride=stride), fullgraph=True, backend="eager")
    for stride in (1, 2, 3, (1, 2), (2, 3)):
        torch.testing.assert_close(compiled(V, DENSE, stride), tt.conv(V, DENSE, stride=stride))


def test_bad_input_is_told_of() -> None:
    compiled = torch.compile(lambda v, w: tt.conv(v, w, stride=0), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"stride=0: expected an int of at least 1"):
        compiled(V, DENSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_compiled(dtype: torch.dtype) -> None:
    compiled = torch.compile(lambda v, w: tt.conv(v, w), fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=dtype):
        found = compiled(V.float(), DENSE.float())
        torch.testing.assert_close(found, tt.conv(V.float(), DENSE.float()), rtol=0, atol=0)
    assert found.dtype == dtype


class Module(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(DENSE.clone())
        self.register_buffer("seen", torch.from_numpy(GRAPH))

    def forward(self, v: Tensor) -> Tensor:
        h, indices = tt.max_pool(tt.conv(v, self.weight, groups=self.seen, padding=1), 2)
        return tt.max_pool_transpose(h, indices, v.shape[2:])


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    """To a file and back, for any number of examples; the program can be trained."""
    module, examples = Module(), torch.export.Dim("examples")
    program = torch.export.export(module, (V,), dynamic_shapes={"v": {0: examples}}, strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    more = normal(5, *V.shape[1:])
    for v in (V, more):
        torch.testing.assert_close(loaded(v), module(v), rtol=0, atol=0)
    loaded(V).sum().backward()
    module(V).sum().backward()
    torch.testing.assert_close(dict(loaded.named_parameters())["weight"].grad, module.weight.grad, rtol=0, atol=0)
    lowered = program.run_decompositions()
    assert not any("convolution" in str(node.target) for node in lowered.graph.nodes)


def test_export_says_what_it_would_lose() -> None:
    """A program of an array's graph would compute nothing, without a word."""

    class Module(torch.nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            return tt.conv(v, DENSE, groups=GRAPH, padding=1)

    with pytest.raises(Exception, match=r"groups of type ndarray: .* expected a tensor"):
        torch.export.export(Module(), (V,), strict=True)
    program = torch.export.export(Module(), (V,), strict=False)
    torch.testing.assert_close(program.module()(V), Module()(V), rtol=0, atol=0)
    compiled = torch.compile(Module(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(V), Module()(V), rtol=0, atol=0)


GROWING = {
    "Conv2d": lambda: tt.nn.Conv2d(3, 4, 3, padding=1),
    "ConvTranspose2d": lambda: tt.nn.ConvTranspose2d(3, 4, 3, stride=2),
    "MaxPool2d": lambda: torch.nn.Sequential(tt.nn.Conv2d(3, 4, 3), tt.nn.MaxPool2d(3, 2, 1)),
}


@pytest.mark.parametrize("name", GROWING)
def test_pictures_of_any_size_are_compiled_for_once(name: str) -> None:
    """Forward and backward: once for the first size, and once for all others."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model = GROWING[name]()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for size in range(10, 22):
        x = torch.randn(1, 3, size, size)
        parameters = list(model.parameters())
        found = torch.autograd.grad(compiled(x).square().sum(), parameters)
        torch.testing.assert_close(found, torch.autograd.grad(model(x).square().sum(), parameters))
    assert counter.frame_count == 2


@pytest.mark.parametrize(
    "layer", [lambda: tt.nn.MaxPool2d(2), lambda: tt.nn.ConvTranspose2d(3, 3, 3), lambda: tt.nn.Conv2d(3, 3, 3)]
)
def test_pictures_of_any_size_are_exported_for(layer: Any) -> None:
    model = layer()
    sizes = ({2: torch.export.Dim("rows", min=4, max=100)},)
    exported = torch.export.export(model, (torch.randn(2, 3, 16, 16),), dynamic_shapes=sizes).module()
    x = torch.randn(2, 3, 31, 16)
    torch.testing.assert_close(exported(x), model(x))
