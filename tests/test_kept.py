"""What engines make of a weight is kept where somebody says that it stays the same, and only there."""

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest

import triconv
from triconv import dispatch
from triconv.engines import winograd
from triconv.form import Role
from triconv.kept import MOST, Kept
from triconv.kernels import prepared
from triconv.memory import LINE, address

# name: engine, operation, visible, weight, options. Each engine makes something of such a weight that it can keep.
CASES = {
    "direct, panels": ("direct", "conv", (2, 1024, 9, 9), (512, 1024, 1, 1), {}),
    "direct, another order": ("direct", "conv", (8, 48, 9, 9), (32, 48, 3, 3), {"padding": 1}),
    "direct, edges of a graph": ("direct", "conv", (2, 20, 9, 9), (24, 20, 3, 3), {"groups": "graph"}),
    "winograd, by blocks": ("winograd", "conv", (8, 16, 28, 28), (32, 16, 3, 3), {"padding": 1}),
    "winograd, by panels": ("winograd", "conv", (1, 256, 6, 6), (256, 256, 3, 3), {"padding": 1}),
    "winograd, parts of a stride": ("winograd", "conv", (8, 16, 28, 28), (32, 16, 4, 4), {"stride": 2, "padding": 1}),
    "winograd, transposed": ("winograd", "conv_transpose", (2, 16, 12, 12), (32, 16, 3, 3), {"padding": 1}),
    "fft": ("fft", "conv", (2, 8, 20, 20), (8, 8, 9, 9), {"padding": 4}),
    "fft, transposed": ("fft", "conv_transpose", (2, 8, 20), (8, 8, 9), {"padding": 4}),
}


def _case(name):
    engine, operation, visible, weight, options = CASES[name]
    if options.get("groups") == "graph":
        options = {**options, "groups": np.random.default_rng(3).random(weight[:2]) < 0.3}
    plan = triconv.explain(operation, visible, weight, engine=engine, dtype="float32", **options)
    rng = np.random.default_rng(0)
    data, w = (rng.standard_normal(plan.shape(role), np.float32) for role in plan.problem.operands)
    return plan, data, w


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("written", [True, False], ids=["written down", "large"])
def test_what_is_kept_has_the_same_bits_and_is_used(name, written, monkeypatch):
    plan, data, weight = _case(name)
    if not written:
        monkeypatch.setattr(prepared, "WRITTEN", 0)
    run, kept = plan.engine.build(plan.problem), Kept()
    expected, out = (np.full(plan.shape(plan.problem.produces), np.nan, np.float32) for _ in range(2))
    run(data, weight, expected)
    for _ in range(2):
        out[...] = np.nan
        run(data, weight, out, kept)
        np.testing.assert_array_equal(out, expected)
    # Nobody may do that; it shows that the second call had no need of the weight.
    run(data, np.zeros_like(weight), out, kept)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.usefixtures("all_axes")
def test_copies_for_tiles_of_other_sizes_are_the_same():
    kept, rng = Kept(), np.random.default_rng(1)
    weight, sizes = rng.standard_normal((256, 256, 3, 3), np.float32), set()
    for size in range(2, 9):
        data = rng.standard_normal((1, 256, size, size), np.float32)
        plan = triconv.explain("conv", data.shape, weight.shape, engine="winograd", padding=1, dtype="float32")
        expected, out = (np.empty(plan.shape(Role.HIDDEN), np.float32) for _ in range(2))
        plan.built(data, weight, expected)
        plan.built(data, weight, out, kept)
        np.testing.assert_array_equal(out, expected)
        assert "by panels" in plan.engine.describe(plan.problem)
        sizes.add(winograd.tile_sizes(plan.problem))
    assert len(sizes) > 2
    ((part,),) = kept._made.values()  # of one stride
    assert len(part) == 1


def test_shapes_of_data_do_not_mix_what_is_kept():
    kept, rng = Kept(), np.random.default_rng(1)
    weight = rng.standard_normal((32, 16, 3, 3), np.float32)
    for size in (5, 8, 12, 12, 31, 5):
        for engine in ("winograd", "direct", "fft"):
            plan = triconv.explain("conv", (2, 16, size, size), weight.shape, engine=engine, padding=1, dtype="float32")
            data = rng.standard_normal(plan.shape(Role.VISIBLE), np.float32)
            expected, out = np.empty((2, *plan.shape(Role.HIDDEN)), np.float32)
            plan.built(data, weight, expected)
            plan.built(data, weight, out, kept)
            np.testing.assert_array_equal(out, expected)


NARROW = [
    ("winograd", 4, 3, ((2, 9), (3, 9), (9, 3), (9, 9)), "float32"),
    ("winograd", 3, 2, ((1, 8), (8, 1), (9, 9)), "float32"),
    ("fft", 9, 1, ((40, 40),), "float32 float64"),
]


@pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
@pytest.mark.parametrize(("engine", "taps", "stride", "sizes", "dtypes"), NARROW)
def test_parts_of_a_stride_and_dtypes_do_not_mix_what_is_kept(operation, engine, taps, stride, sizes, dtypes):
    kept, rng = Kept(), np.random.default_rng(1)
    weight = rng.standard_normal((16, 16, taps, taps))
    options = {"engine": engine, "stride": stride, "padding": taps // 2 if stride == 1 else 1}
    for size, dtype in product(sizes, dtypes.split()):
        plan = triconv.explain(operation, (2, 16, *size), weight.shape, dtype=dtype, **options)
        data = rng.standard_normal(plan.shape(plan.problem.operands[0])).astype(dtype)
        expected, out = (np.empty(plan.shape(plan.problem.produces), dtype) for _ in range(2))
        plan.built(data, weight.astype(dtype), expected)
        plan.built(data, weight.astype(dtype), out, kept)
        np.testing.assert_array_equal(out, expected)


def test_only_the_last_few_are_kept():
    kept, made = Kept(), []
    for number in range(3 * MOST):
        kept.of(number, lambda number=number: made.append(number))
    for number in range(2 * MOST, 3 * MOST):
        kept.of(number, lambda: pytest.fail("one of the last is gone"))
    kept.of(0, lambda: made.append(0))
    assert made == [*range(3 * MOST), 0]


def test_threads_share_what_is_kept():
    switched = sys.getswitchinterval()
    kept, numbers = Kept(), [number * step % (5 * MOST) for step in (1, 3, 7) for number in range(20000)]
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: [kept.of(number, lambda n=number: n) for number in numbers], range(8)))
    finally:
        sys.setswitchinterval(switched)
    assert found == [numbers] * 8
    assert len(kept._made) <= MOST


def test_an_infinite_result_is_that_of_the_sum_as_written():
    plan, data, weight = _case("winograd, by blocks")
    data[0, 0, 3, 3] = np.inf
    expected, out = (np.empty(plan.shape(Role.HIDDEN), np.float32) for _ in range(2))
    plan.built(data, weight, expected)
    kept = Kept()
    for _ in range(2):
        plan.built(data, weight, out, kept)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", ["winograd, by blocks", "direct, panels"])
@pytest.mark.parametrize("lies", ["as it is", "backwards", "one for all", "another order"])
def test_a_plan_has_its_weight_on_a_line(name, lies, monkeypatch):
    """Whatever its size, and however it lies: in the same order, as what reads it depends on that."""
    plan, data, weight = _case(name)
    weight = {
        "as it is": weight,
        "backwards": weight[::-1, ::-1],
        "one for all": np.broadcast_to(weight[:1], weight.shape),
        "another order": np.moveaxis(np.ascontiguousarray(np.moveaxis(weight, 0, -1)), -1, 0),
    }[lies]
    got, out, expected = [], *(np.empty(plan.shape(Role.HIDDEN), np.float32) for _ in range(2))
    plan.run(data, np.array(weight), expected)
    monkeypatch.setattr(dispatch.Plan, "_run", lambda _, __, own, *___: got.append(own))
    plan.with_weight(weight)(data, out)
    monkeypatch.undo()
    (own,) = got
    assert address(own) % LINE == 0
    assert own.strides == weight.copy(order="K").strides
    plan.with_weight(weight)(data, out)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-3)


def test_a_plan_with_a_weight_has_a_copy_of_it():
    plan, data, weight = _case("winograd, by blocks")
    expected, out = (np.empty(plan.shape(Role.HIDDEN), np.float32) for _ in range(2))
    plan.run(data, weight, expected)
    run = plan.with_weight(weight)
    weight[...] = 0
    run(data, out)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("weight", "error", "says"),
    [
        (
            np.zeros((32, 16, 3, 2), np.float32),
            ValueError,
            r"weight of shape \(32, 16, 3, 2\).*expected \(32, 16, 3, 3",
        ),
        (np.zeros((32, 16, 3, 3)), ValueError, "weight of shape .* and dtype float64: expected .* float32"),
        ([1.0], TypeError, "weight of type list: expected a plain NumPy array"),
    ],
)
def test_a_plan_says_what_a_weight_is_not(weight, error, says):
    with pytest.raises(error, match=says):
        _case("winograd, by blocks")[0].with_weight(weight)


def test_a_plan_with_a_weight_says_what_arrays_are_not():
    plan, data, weight = _case("winograd, by blocks")
    run, out = plan.with_weight(weight), np.empty(plan.shape(Role.HIDDEN), np.float32)
    with pytest.raises(ValueError, match=r"visible of shape .* expected"):
        run(data[..., 1:], out)
    with pytest.raises(ValueError, match=r"hidden of shape .* expected"):
        run(data, out[..., 1:])
    memory = np.zeros(max(data.nbytes, out.nbytes), np.uint8)
    with pytest.raises(ValueError, match="out shares memory with visible: expected an array of its own"):
        run(*(np.ndarray(one.shape, one.dtype, memory) for one in (data, out)))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        run(data, out)


def test_a_plan_that_makes_a_weight_takes_none():
    plan = triconv.explain("conv_weight", (1, 1, 4), (1, 1, 2))
    with pytest.raises(ValueError, match="a plan for conv_weight: expected one for conv or conv_transpose"):
        plan.with_weight(np.zeros((1, 1, 2), np.float32))


torch = pytest.importorskip("torch")
nn = pytest.importorskip("triconv.torch.nn")
kept_for = pytest.importorskip("triconv.torch.nn.kept").kept_for


@pytest.fixture
def looked_up(monkeypatch):
    """Whether calls of engines had something kept: one entry a call."""
    found = []

    def built(plan, real=dispatch._built):
        run = real(plan)

        def spied(a, b, out, kept=None, *after):
            found.append(kept)
            return run(a, b, out, kept, *after)

        return spied

    monkeypatch.setattr(dispatch, "_built", built)
    return found


def _module(kind):
    torch.manual_seed(0)
    made = kind(64, 64, 3, padding=1)
    return made.eval(), torch.randn(2, 64, 9, 9)


def _used_again(module, data, looked_up):
    """Whether a second call finds what the first one made; every result is what a fresh module gives."""
    looked_up.clear()
    with torch.no_grad():
        results = [module(data), module(data)]
        fresh = copy.deepcopy(module)(data)
    assert all(torch.equal(one, fresh) for one in results)
    first, second, _ = looked_up
    return first is not None and first is second


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_modules_keep_what_is_made_of_a_weight_that_rests(kind, looked_up):
    assert _used_again(*_module(kind), looked_up)


CHANGES = {
    "in place": lambda module: module.weight.mul_(2),
    "past the version counter": lambda module: module.weight.data.mul_(2),
    "one kernel, past the version counter": lambda module: module.weight.data[7].zero_(),
    "one number, past the version counter": lambda module: module.weight.data[7, 6, 1].mul_(1.001),
    "through NumPy": lambda module: np.multiply(module.weight.detach().numpy(), 2, out=module.weight.detach().numpy()),
    "other data": lambda module: setattr(module.weight, "data", module.weight.data * 2),
    "another parameter": lambda module: setattr(module, "weight", torch.nn.Parameter(module.weight * 2)),
    "a state": lambda module: module.load_state_dict({n: 2 * p for n, p in module.state_dict().items()}),
    "another dtype": lambda module: module.double(),
    "another memory order": lambda module: module.to(memory_format=torch.channels_last),
    "training": lambda module: module.train().eval(),
    "shared with processes": lambda module: module.share_memory(),
    "fewer of them": lambda module: _halved(module),
}


def _halved(module):
    """Half of the kernels, which begin at the same place; of equal numbers no sample tells them from all."""
    module.weight.data = torch.zeros_like(module.weight)
    module(torch.zeros(1, 64, 5, 5))
    module.weight.data, module.bias = module.weight.data[:32], None


@pytest.mark.parametrize("change", CHANGES)
def test_a_weight_that_changes_is_made_ready_again(change, looked_up):
    module, data = _module(nn.Conv2d)
    with torch.no_grad():
        module(data)
        before = looked_up[-1]
        CHANGES[change](module)
    data = data.to(module.weight.dtype)
    assert _used_again(module, data, looked_up)
    assert looked_up[0] is not before


ALIKE = {
    "kernels in another order": lambda weight: weight.flip(0),
    "channels in another order": lambda weight: weight.roll(1, 1),
    "transposed": lambda weight: weight.transpose(0, 1).clone(),
    "another sign": lambda weight: -weight,
    "another sign of one kernel": lambda weight: torch.cat([-weight[:1], weight[1:]]),
    "twice": lambda weight: 2 * weight,
    "half of them twice": lambda weight: torch.cat([2 * weight[:32], weight[32:]]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("change", ALIKE)
def test_weights_of_the_same_words_or_of_words_with_the_same_sum_are_told_apart(change, dtype, looked_up):
    """Past the version counter; 64 × 64 × 9 words of float64, a multiple of 4096, hide the carry of an exponent."""
    module, data = _module(nn.Conv2d)[0].to(dtype), torch.randn(2, 64, 28, 28, dtype=dtype)
    with torch.no_grad():
        module(data)
        assert len(looked_up[-1])
        module.weight.data.copy_(ALIKE[change](module.weight))
        assert torch.equal(module(data), copy.deepcopy(module)(data))


def test_what_is_made_is_of_the_weight_as_it_was_then():
    """And not as it was at a call before that of which nothing was kept."""
    module, data = _module(nn.Conv2d)
    with torch.no_grad():
        kept_for(module, data, module.weight)
        module.weight.data.mul_(2)
        made = kept_for(module, data, module.weight)
        made.of("made", lambda: None)
        assert kept_for(module, data, module.weight) is made
        module.weight.data.div_(2)
        assert kept_for(module, data, module.weight) is not made


def test_nothing_is_kept_where_weights_may_change_unseen(looked_up):
    module, data = _module(nn.Conv2d)
    with torch.no_grad():
        module.train()(data)
    module.eval()(data)
    small = nn.Conv2d(2, 2, 3).eval()
    with torch.no_grad():
        small(torch.randn(1, 2, 9, 9))
        torch.func.functional_call(module, {"weight": torch.zeros_like(module.weight).expand_as(module.weight)}, data)
    assert looked_up[:-1] == [None] * 3


def test_a_weight_whose_numbers_share_places_is_not_kept(looked_up):
    module, data = _module(nn.Conv2d)
    for steps in ((1, 2, 1, 3), (0, 9, 3, 1)):
        module.weight = torch.nn.Parameter(torch.randn(1000).as_strided((64, 64, 3, 3), steps))
        with torch.no_grad():
            assert torch.equal(module(data), copy.deepcopy(module)(data))
        assert looked_up[-2] is None


def test_what_is_kept_travels_with_no_copy_and_no_file():
    module, data = _module(nn.Conv2d)
    before = set(module.__dict__)
    with torch.no_grad():
        expected = module(data)
        assert set(module.__dict__) == before
        assert torch.equal(pickle.loads(pickle.dumps(module))(data), expected)


def test_replaced_modules_keep_and_forget(looked_up):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3)).eval()
    nn.replace(model)
    assert _used_again(model, torch.randn(2, 64, 9, 9), looked_up)


def test_tracers_see_no_keeping():
    module, data = _module(nn.Conv2d)
    with torch.no_grad():
        expected = module(data)
        traced = torch.fx.symbolic_trace(module)
        assert torch.allclose(traced(data), expected)
        assert not any(isinstance(value, Kept) for node in traced.graph.nodes for value in node.args)


@pytest.mark.parametrize("bias", [True, False])
def test_a_bias_of_another_kind_leaves_what_is_kept(bias, looked_up):
    torch.manual_seed(0)
    module = nn.Tiled(32, 64, (3, 3), 2, padding=1, bias=bias).eval()
    assert _used_again(module, torch.randn(2, 32, 9, 9), looked_up)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", ["as it is", "apart", "float32"])
@pytest.mark.parametrize("channels", [64, 1])
def test_a_bias_in_half_precision_is_added_as_with_a_gradient(dtype, bias, channels):
    torch.manual_seed(0)
    module, data = nn.Conv2d(channels, 64, 3, padding=1).eval(), torch.randn(2, channels, 9, 9)
    own = module.bias.detach()
    module, data = module.to(dtype), data.to(dtype)
    if bias == "float32":
        module.bias = torch.nn.Parameter(own)
    elif bias == "apart":
        module.bias = torch.nn.Parameter(torch.stack([own.to(dtype)] * 2, 1)[:, 0])
    expected = module(data).detach()
    with torch.no_grad():
        assert torch.equal(module(data), expected)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_bias_is_added_in_the_same_pass_where_no_gradient_is_wanted(kind, monkeypatch):
    module, data = _module(kind)
    with torch.enable_grad():
        expected = module(data).detach()
    monkeypatch.setattr(nn.convolution, "with_bias", lambda *_: pytest.fail("another pass over the result"))
    with torch.no_grad():
        torch.testing.assert_close(module(data), expected, rtol=0, atol=0)
    monkeypatch.undo()
    module.bias = torch.nn.Parameter(torch.zeros(65))
    with torch.no_grad(), pytest.raises(ValueError, match=r"bias of shape \(65,\): expected \(64,\)"):
        module(data)
    module.bias = torch.nn.Parameter(torch.ones(64, dtype=torch.float64))
    with torch.no_grad():
        assert module(data).dtype is torch.float32
