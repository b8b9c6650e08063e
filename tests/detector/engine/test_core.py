"""The C core: specs that cannot be are refused, streams do not mix, samples out of scale change nothing."""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import math
import os
import pickle
import threading
from collections.abc import Callable
from ctypes import byref, c_size_t, c_void_p
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from detector import Detector, Event
from detector.audio.sources import read_sound
from detector.engine import core
from detector.engine.core import CoreStream, _Arrays, _Layer, _Spec, _spec, _Trace, library
from detector.engine.graph import read_graph, topology_of
from detector.messages import Samples, Trace
from detector.network import ENGINE_VARIABLE, load_model, onnxruntime
from models import DEMO_SCENE
from tests.detector.engine.test_parity import SHIPPED
from tests.detector.engine.topologies import VARIANTS, write_model
from tests.firmware_export.programs import need, run

ROOT: Final = Path(__file__).resolve().parents[3]
SOURCES: Final = ROOT / "detector" / "engine" / "c"
NOWHERE: Final = 16
"""An address that cannot be read: to follow it ends the process."""
INT32_MAX: Final = (1 << 31) - 1
RATE_HZ: Final = 16000


@pytest.fixture(scope="module", autouse=True)
def _core() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENGINE_VARIABLE, "core")
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a model with two convolutions of which the second reads three frames."""
    return write_model(VARIANTS["odd channels"], tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def scene() -> Samples:
    return read_sound(DEMO_SCENE, RATE_HZ)[3 * RATE_HZ : 13 * RATE_HZ]


class Spec:
    """The spec of a model, whose fields and arrays a test changes before the core takes it."""

    def __init__(self, path: Path) -> None:
        model = load_model(path)
        self._arrays = _Arrays()
        self._kept: list[Any] = []
        topology = topology_of(read_graph(path.read_bytes()), model.manifest)
        self.fields = _spec(model.manifest, topology, self._arrays)
        self.classes = core._class_array(model.manifest.classes)
        self.sizes = {
            "window": self.fields.frame_length,
            "dct": self.fields.n_mels * self.fields.n_mfcc,
            "mel_first": 1,
            "mel_weights": 1,
            "bit_reversal": 2,
            "to_bands": 9,
            "readout_weight": 9,
            "readout_beta": 3,
            "threshold": self.fields.n_mfcc,
            "rest": self.fields.n_mfcc,
            "pass_twiddles": 4,
            "split_twiddles": 4,
            "readout_bias": 3,
            "mel_count": 2,
        }

    def layer(self, i: int) -> _Layer:
        found: _Layer = self.fields.layer[i]
        return found

    def set_first(self, name: str, value: float, layer: int | None = None) -> None:
        """Change the last known value of an array, in a copy."""
        holder = self.fields if layer is None else self.layer(layer)
        doubles = {"window", "dct", "mel_weights", "pass_twiddles", "split_twiddles"}
        integers = {"mel_first", "mel_count", "bit_reversal"}
        kind = np.float64 if name in doubles else np.uint32 if name in integers else np.float32
        address = getattr(holder, name)
        items = np.ctypeslib.as_array(
            ctypes.cast(address, ctypes.POINTER(np.ctypeslib.as_ctypes_type(kind))), (self.sizes.get(name, 3),)
        )
        items.flags.writeable = True
        old = items[-1].copy()
        self._kept.append((items, old))
        items[-1] = value

    def restore(self) -> None:
        for items, old in self._kept:
            items[-1] = old

    def refusal(self) -> str | None:
        """Return why the core refuses the spec; None where it takes it."""
        reason = ctypes.create_string_buffer(200)
        model = library().snn_core_model_new(byref(self.fields), reason, 200)
        if model:
            library().snn_core_model_free(model)
            return None
        return reason.value.decode()


ARRAYS: Final = tuple(field[0] for field in _Spec._fields_ if field[1] is c_void_p)


def size(name: str, value: int) -> Callable[[Spec], None]:
    """Set a size of the front end, with arrays that cannot be read."""

    def change(spec: Spec) -> None:
        setattr(spec.fields, name, value)
        for array in (
            "window",
            "pass_twiddles",
            "split_twiddles",
            "dct",
            "mel_weights",
            "threshold",
            "rest",
            "to_bands",
        ):
            setattr(spec.fields, array, NOWHERE)

    return change


def of_layer(i: int, **sizes: int) -> Callable[[Spec], None]:
    """Set sizes of a layer, with arrays that cannot be read."""

    def change(spec: Spec) -> None:
        layer = spec.layer(i)
        for name, value in sizes.items():
            setattr(layer, name, value)
        for array in ("weight", "bias", "alpha", "offset", "beta"):
            setattr(layer, array, NOWHERE)
        spec.fields.readout_weight = spec.fields.readout_bias = spec.fields.readout_beta = NOWHERE

    return change


def missing(name: str) -> Callable[[Spec], None]:
    return lambda spec: setattr(spec.fields, name, None)


def value(name: str, to: float, layer: int | None = None) -> Callable[[Spec], None]:
    return lambda spec: spec.set_first(name, to, layer)


def scalar(name: str, to: float) -> Callable[[Spec], None]:
    return lambda spec: setattr(spec.fields, name, to)


NAN: Final = float("nan")
REFUSED: Final[dict[str, tuple[Callable[[Spec], None], str]]] = {
    **{f"no {name}": (missing(name), "an array that is missing") for name in (*ARRAYS, "layer")},
    **{
        f"{name} of {n}": (size(name, n), "frame_length or hop_length")
        for name in ("frame_length", "hop_length")
        for n in (0, -1, (1 << 20) + 1, INT32_MAX)
    },
    **{f"n_fft of {n}": (size("n_fft", n), "n_fft") for n in (0, -1024, 8, 1000, 1 << 21, 1 << 30)},
    **{f"n_mels of {n}": (size("n_mels", n), "n_mels") for n in (0, -1, 4097, INT32_MAX)},
    **{f"n_mfcc of {n}": (size("n_mfcc", n), "n_mels, n_mfcc") for n in (0, -1, 41, INT32_MAX)},
    **{f"mel_terms of {n}": (size("mel_terms", n), "mel_terms") for n in (-1, 0, 5, INT32_MAX)},
    **{f"{n} thresholds": (size("thresholds", n), "thresholds") for n in (0, -1, 1 << 15, 1 << 30, INT32_MAX)},
    "band beyond the spectrum": (value("mel_first", 1 << 31), "the bins of a band"),
    "band whose end wraps": (value("mel_first", (1 << 32) - 1), "the bins of a band"),
    "band of too many bins": (value("mel_count", 514), "the bins of a band"),
    "band of another length": (value("mel_count", 1), "mel_terms"),
    "butterfly beyond the frame": (value("bit_reversal", 128), "bit_reversal"),
    **{f"{n} layers": (scalar("layers", n), "the number of layers") for n in (0, -1, 65, INT32_MAX)},
    **{f"{n} classes": (scalar("classes", n), "layers or classes") for n in (0, -1, 4097, INT32_MAX)},
    "a layer less": (scalar("layers", 2), "the last layer"),
    "channels of another layer": (of_layer(1, in_channels=8), "the input channels of a layer"),
    **{
        f"{name} of {n}": (of_layer(1, **{name: n}), "the sizes of a layer")
        for name in ("out_channels", "frames", "dilation", "bands", "stride")
        for n in (0, -1, INT32_MAX)
    },
    **{f"padding of {n}": (of_layer(1, padding=n), "the sizes of a layer") for n in (-1, 3, INT32_MAX)},
    **{f"width of {n}": (of_layer(1, out_width=n), "the width of a layer") for n in (0, -1, 11, INT32_MAX)},
    "kernel wider than the padded input": (of_layer(1, bands=101, padding=3), "the width of a layer"),
    "weights beyond all bounds": (of_layer(0, out_channels=65536, frames=4096, dilation=4096), "the size of a layer"),
    "frames beyond all bounds": (of_layer(1, frames=4096, dilation=4096), "the size of a layer"),
    "neurons beyond all bounds": (
        of_layer(0, out_channels=65536, frames=1, stride=1, bands=513, padding=512, out_width=552),
        "the size of a layer",
    ),
    **{
        f"{to} in {name}": (value(name, to), "a table of the front end, which is not finite")
        for name in ("window", "dct", "mel_weights", "pass_twiddles", "split_twiddles")
        for to in (NAN, math.inf, 1e200)
    },
    **{
        f"{to} in {name}": (value(name, to), "a table of the encoder, which is not finite")
        for name in ("threshold", "rest", "to_bands")
        for to in (NAN, -math.inf)
    },
    **{
        f"{to} in {name} of a layer": (value(name, to, 0), "a layer's values, which are not finite")
        for name in ("weight", "alpha", "offset", "beta")
        for to in (NAN, math.inf)
    },
    "NaN in a bias": (value("bias", NAN, 1), "a layer's values, which are not finite"),
    **{
        f"NaN in {name}": (value(name, NAN), "the read-out, which is not finite")
        for name in ("readout_weight", "readout_bias", "readout_beta")
    },
    **{
        f"{to} for {name}": (scalar(name, to), "a number of the front end")
        for name, to in (
            *(("preemphasis", NAN), ("preemphasis", 1e300), ("keep", NAN), ("largest_sample", NAN)),
            *(("log_floor", NAN), ("log_floor", math.inf), ("log_floor", 0.0), ("log_floor", 1e-310)),
        )
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_specs_that_cannot_be_are_refused(name: str, small: Path) -> None:
    change, text = REFUSED[name]
    spec = Spec(small)
    assert spec.refusal() is None
    change(spec)
    try:
        found = spec.refusal()
    finally:
        spec.restore()
    assert found is not None
    assert any(part in found for part in text.split("|")), found
    assert "\n" not in found


def test_frames_that_have_no_common_period_are_refused(small: Path) -> None:
    """Rings of 4093, 4091 and 4079 + 2 frames come together after 2**35 frames."""
    spec = Spec(small)
    weights = np.zeros(1 << 25, np.float32)
    for i, frames in enumerate((4094, 4090, 4074)):
        layer = spec.layer(i)
        layer.frames = frames
        layer.weight = weights.ctypes.data
    assert spec.refusal() == "the frames that layers remember"


def test_a_reason_has_as_many_bytes_as_fit(small: Path) -> None:
    spec = Spec(small)
    spec.fields.n_fft = 9
    reason = ctypes.create_string_buffer(b"untouched", 10)
    assert not library().snn_core_model_new(byref(spec.fields), reason, 5)
    assert reason.raw == b"n_ff\0ched\0"
    assert not library().snn_core_model_new(byref(spec.fields), None, 0)


@pytest.mark.parametrize(
    ("name", "to"),
    [
        *(
            ("smoothing", 0),
            ("smoothing", 65537),
            ("min_on", 0),
            ("min_off", -1),
            ("refractory", -1),
            ("leak", 4097),
            ("leak", -1),
        ),
        *(("weight", 1025), ("weight", -1), ("bias", 196609), ("bias", -1)),
        *(("on_threshold", NAN), ("off_threshold", math.inf)),
    ],
)
def test_classes_that_cannot_be_are_refused(name: str, to: float, small: Path) -> None:
    spec = Spec(small)
    model = library().snn_core_model_new(byref(spec.fields), None, 0)
    stream = library().snn_core_stream_new(model, spec.classes)
    assert stream
    library().snn_core_stream_free(stream)
    setattr(spec.classes[1], name, to)
    assert not library().snn_core_stream_new(model, spec.classes)
    library().snn_core_model_free(model)


def test_no_samples_and_no_trace_are_nothing(small: Path, scene: Samples) -> None:
    """Every pointer of a trace may be NULL, those in its list of layers as well."""
    spec, some = Spec(small), np.ascontiguousarray(scene[:20000])
    model = library().snn_core_model_new(byref(spec.fields), None, 0)
    stream = c_void_p(library().snn_core_stream_new(model, spec.classes))
    assert library().snn_core_push(stream, None, 0, None) == 0
    assert library().snn_core_finish(stream, byref(_Trace())) == 0
    frames = library().snn_core_frames_in(stream, some.size)
    fired = np.zeros((frames, 33), np.float32)
    addresses = (c_void_p * 3)(None, None, fired.ctypes.data)
    trace = _Trace(layers=ctypes.addressof(addresses))
    assert library().snn_core_push(stream, some.ctypes.data, some.size, byref(trace)) >= 0
    assert library().snn_core_frames(stream) == frames
    assert 0 < fired.mean() < 1
    assert library().snn_core_close(stream) >= 0
    library().snn_core_step(stream, None, 0, None)
    library().snn_core_stream_free(stream)
    library().snn_core_stream_free(None)
    library().snn_core_model_free(model)
    library().snn_core_model_free(None)


def test_a_synapse_without_an_offset_is_one_with_zeros(small: Path, scene: Samples) -> None:
    spec, some = Spec(small), np.ascontiguousarray(scene[:40000])

    def scores() -> NDArray[np.float32]:
        model = library().snn_core_model_new(byref(spec.fields), None, 0)
        stream = c_void_p(library().snn_core_stream_new(model, spec.classes))
        found = np.zeros((library().snn_core_frames_in(stream, some.size), 3), np.float32)
        library().snn_core_push(stream, some.ctypes.data, some.size, byref(_Trace(scores=found.ctypes.data)))
        library().snn_core_stream_free(stream)
        library().snn_core_model_free(model)
        return found

    zeros = np.zeros(spec.layer(0).out_channels, np.float32)
    with_offset = scores()
    spec.layer(0).offset = zeros.ctypes.data
    with_zeros = scores()
    spec.layer(0).offset = None
    assert np.array_equal(scores(), with_zeros)
    assert not np.array_equal(with_offset, with_zeros)


def test_durations_beyond_32_bits_are_as_long_as_can_be(small: Path, scene: Samples) -> None:
    """A class that has to last 2**32 + 1 frames never begins; taken as an integer of C it would after one."""
    detector = Detector.load(small, {"guitar": 0.01, "speech": 0.01, "rain": 0.01})
    assert detector.push(scene)
    never = [
        dataclasses.replace(c, decoder=dataclasses.replace(c.decoder, min_on_frames=(1 << 32) + 1))
        for c in detector.classes
    ]
    assert Detector(load_model(small), tuple(never)).push(scene) == []


def unaligned(values: NDArray[Any]) -> NDArray[Any]:
    """Return a copy that begins at an odd address."""
    found = np.frombuffer(b"x" + values.tobytes(), values.dtype, offset=1)
    assert not found.flags.aligned
    return found.reshape(values.shape)


def test_arrays_at_odd_addresses(small: Path, scene: Samples) -> None:
    detector = Detector.load(small)
    wanted, trace = detector.score(scene), Trace(0)
    assert np.array_equal(detector.score(unaligned(scene)), wanted)
    for n in (400, 4097, 50_000):
        detector.push(unaligned(scene[:n]))
    stream = CoreStream(load_model(small).core, detector.classes)  # type: ignore[arg-type]
    stream.process(scene, trace)
    stream.reset()
    scores = stream.step(unaligned(trace.spikes))
    assert np.array_equal(scores, wanted[: len(scores)])


WRONG_SAMPLES: Final[dict[str, tuple[float, str]]] = {
    "not a number": (NAN, "which is not sound"),
    "infinite": (math.inf, "which is not sound"),
    "negative and infinite": (-math.inf, "which is not sound"),
    "of 16 bits": (-32768.0, "divide samples of 16-bit scale by 32768"),
    "of 24 bits": (8388607.0, "divide samples of 24-bit scale by 8388608"),
    "the largest float": (3.4e38, "which is not sound"),
    "just out of scale": (32.0, "30 dB over full scale"),
}


@pytest.mark.parametrize("engine", ["core", "onnxruntime"])
@pytest.mark.parametrize("name", WRONG_SAMPLES)
def test_samples_out_of_scale_change_nothing(
    name: str, engine: str, small: Path, scene: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    wrong, text = WRONG_SAMPLES[name]
    detector = Detector.load(small)
    wanted = detector.push(scene) + detector.flush()
    assert wanted
    half, found = 61_234, detector.push(scene[:61_234])
    for length in (1, 900, 4096, 4097, 30_000):
        for kind in (np.float32, np.float64):
            bad: NDArray[Any] = scene[half : half + length].astype(kind)
            bad[-1] = wrong
            with pytest.raises(ValueError, match=text):
                detector.push(bad)
            with pytest.raises(ValueError, match=text):
                detector.process(bad)
    assert detector.is_finite()
    assert found + detector.push(scene[half:]) + detector.flush() == wanted


def events_of(detector: Detector, sound: Samples, seed: int) -> list[Event]:
    rng, events, at = np.random.default_rng(seed), [], 0
    while at < len(sound):
        end = at + int(rng.integers(1, 3000))
        events += detector.push(sound[at:end])
        at = end
    return events + detector.flush()


def test_two_models_and_many_threads(small: Path, scene: Samples) -> None:
    """Each thread has a stream of its own; those of a model share it."""
    models = [Detector.load(SHIPPED[-1]), Detector.load(small)]
    wanted = [events_of(detector.fresh(), scene, 0) for detector in models]
    found: dict[int, list[Event]] = {}
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        detector = models[number % 2].fresh()
        barrier.wait()
        found[number] = events_of(detector, scene, number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(8)] == [wanted[i % 2] for i in range(8)]
    assert wanted[0] != wanted[1]


def test_a_stream_that_threads_share_counts_every_frame(small: Path, scene: Samples) -> None:
    """What it detects is nonsense, but calls do not meet in its memory."""
    detector = Detector.load(small, {"guitar": 0.01, "speech": 0.01, "rain": 0.01})
    frames: list[int] = []

    def work() -> None:
        for at in range(0, len(scene), 4000):
            frames.append(len(detector.process(scene[at : at + 4000])[0]))
            detector.push(np.empty(0, np.float32))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    params = detector.manifest.features
    assert sum(frames) == (4 * len(scene) - params.frame_length) // params.hop_length + 1


def test_a_process_that_forks_in_the_middle_of_a_stream(small: Path, scene: Samples) -> None:
    detector = Detector.load(small)
    wanted = events_of(detector, scene, 1)
    detector.push(scene[:70_000])
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, pickle.dumps(detector.push(scene[70_000:]) + detector.flush()))
        os._exit(0)
    rest = detector.push(scene[70_000:]) + detector.flush()
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        of_child = pickle.loads(pipe.read())  # noqa: S301 - the child's own
    assert os.waitpid(child, 0)[1] == 0
    assert of_child == rest
    assert rest
    assert rest == wanted[-len(rest) :]


def test_a_library_that_cannot_be_loaded_is_one_warning(
    tmp_path: Path, scene: Samples, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = events_of(Detector.load(), scene, 0)
    monkeypatch.delenv(ENGINE_VARIABLE)
    broken = tmp_path / "_snn_core.so"
    broken.write_bytes(b"\x7fELF, but not for long")
    monkeypatch.setattr(core, "LIBRARY", broken)
    library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            detectors = [Detector.load(), Detector.load()]
    finally:
        library.cache_clear()
    assert [d.engine for d in detectors] == ["onnxruntime"] * 2
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "the C core cannot be used, onnxruntime takes its place: _snn_core.so cannot be"
    )
    assert events_of(detectors[0], scene, 1) == wanted


def test_a_library_of_another_version_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("cc")
    names = sorted(core._FUNCTIONS.keys() - {"abi"})
    (tmp_path / "other.c").write_text(
        "int snn_core_abi(void) { return 99; }\n" + "".join(f"void snn_core_{n}(void) {{}}\n" for n in names)
    )
    run("cc", "-shared", "-fPIC", "-o", tmp_path / "other.so", tmp_path / "other.c")
    monkeypatch.setattr(core, "LIBRARY", tmp_path / "other.so")
    library.cache_clear()
    try:
        with pytest.raises(core.CoreError, match=rf"has the interface 99, not {core._ABI}: install this version again"):
            library()
    finally:
        library.cache_clear()


@pytest.fixture(scope="module", params=["-O0", "-O3 -mavx2", "-O3"])
def numbers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the core's functions, compiled with and without vectors."""
    need("cc")
    if "avx2" in request.param and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    out = tmp_path_factory.mktemp("numbers") / "numbers.so"
    source = Path(__file__).with_name("c") / "numbers.c"
    options = ["-std=c11", "-ffp-contract=off", "-shared", "-fPIC", "-I", str(SOURCES)]
    run("cc", *request.param.split(), *options, "-o", out, source)
    found = ctypes.CDLL(str(out))
    for function in (found.logs, found.sigmoids):
        function.argtypes, function.restype = (c_void_p, c_void_p, c_size_t), None
    return found


def test_the_logarithm_is_within_a_unit_in_the_last_place(numbers: Any) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0x0010000000000000, 0x7FF0000000000000, 200_000, dtype=np.int64).view(np.float64)
    near_one = 1 + rng.normal(size=100_000) * 10.0 ** rng.uniform(-16, -1, 100_000)
    powers = np.exp2(np.arange(-1022.0, 1024.0))
    edges = np.array([1.0, np.nextafter(1, 0), np.nextafter(1, 2), 1e-8, math.sqrt(0.5), math.sqrt(2), 2.0**-52])
    x = np.concatenate([bits, near_one, powers, np.nextafter(powers, 0)[1:], np.nextafter(powers, math.inf), edges])
    found = np.empty_like(x)
    numbers.logs(x.ctypes.data, found.ctypes.data, x.size)
    expected = np.array([math.log(value) for value in x.tolist()])
    assert (np.abs(found - expected) <= np.spacing(np.abs(expected))).all()
    assert (found == expected).mean() > 0.9


def sigmoid_of_onnxruntime(x: NDArray[np.float32]) -> NDArray[np.float32]:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Sigmoid", ["x"], ["y"])], "sigmoid", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return found


def test_the_logistic_function_is_onnxruntimes(numbers: Any) -> None:
    if " fma " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("onnxruntime gives other bits on a processor without fused multiply-add")
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [
            *(np.linspace(-20, 20, 4_000_001), rng.normal(size=100_000) * 10.0 ** rng.uniform(-40, 2, 100_000)),
            np.array([0.0, -0.0, 18, -18, 18.000002, -18.000002, 1e38, -1e38, math.inf, -math.inf, 1e-45]),
        ]
    ).astype(np.float32)
    found = np.empty_like(x)
    numbers.sigmoids(x.ctypes.data, found.ctypes.data, x.size)
    assert found.tobytes() == sigmoid_of_onnxruntime(x).tobytes()
    for n in range(1, 40):  # as few as there are classes
        assert found[777 : 777 + n].tobytes() == sigmoid_of_onnxruntime(x[777 : 777 + n]).tobytes()
