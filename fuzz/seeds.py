# SPDX-License-Identifier: Apache-2.0
"""Makes the seeds of fuzz/corpus: small files of every kind that the readers take, from examples/, the tests' generators
and jobs of the real programs. The same files each time, save for what a job writes of its time.

  ./dev shell env PYTHONPATH=tests/support python3 fuzz/seeds.py

Inputs that once broke a reader stand beside them as crash-*; they are not touched here.
"""
import io
import json
import pathlib
import struct
import subprocess
import tempfile
import zipfile
import zlib

import numpy as np
import onnx
import onnx.helper as oh
from onnx import TensorProto

import hf_checkpoints
from service import EXAMPLE, TOP, Service

CORPUS = TOP / "fuzz" / "corpus"
MARK = b"\n----\n"
STORIES = TOP / "examples" / "stories"


def seed(target, name, *parts):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(MARK.join(parts))


def safetensors(tensors, metadata=None):
    """tensors: name -> (dtype, array)"""
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, (dtype, array) in sorted(tensors.items(), key=lambda t: -t[1][1].dtype.itemsize):
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


# ---- weights and arrays

def onnx_models():
    rng = np.random.default_rng(1)
    def weight(name, *shape):
        return onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
    def model(nodes, weights, inputs, outputs, opset=17):
        value = lambda n, s: oh.make_tensor_value_info(n, TensorProto.FLOAT, s)
        graph = oh.make_graph(nodes, "g", [value(*i) for i in inputs], [value(*o) for o in outputs], weights)
        return oh.make_model(graph, opset_imports=[oh.make_opsetid("", opset)], ir_version=8)
    yield "conv", model([oh.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
                         oh.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
                         oh.make_node("Relu", ["n"], ["r"]), oh.make_node("GlobalAveragePool", ["r"], ["p"]),
                         oh.make_node("Flatten", ["p"], ["y"])],
                        [weight("w", 2, 1, 3, 3)] + [weight(n, 2) for n in "bsmv"],
                        [("x", ["batch", 1, 4, 4])], [("y", ["batch", 2])])
    for opset in (7, 13, 22):
        yield f"gemm-opset{opset}", model([oh.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
                                          [weight("w", 3, 4), weight("b", 3)], [("x", [1, 4])], [("y", [1, 3])], opset)
    constant = oh.make_node("Constant", [], ["k"], value=onnx.numpy_helper.from_array(np.array([2, 2], np.int64)))
    yield "reshape", model([constant, oh.make_node("Reshape", ["x", "k"], ["y"])], [], [("x", [1, 4])], [("y", [2, 2])])
    outside = weight("w", 4, 4)
    raw = outside.raw_data
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", str(len(raw)))):
        outside.external_data.add(key=key, value=value)
    yield "external", (model([oh.make_node("MatMul", ["x", "w"], ["y"])], [outside], [("x", [1, 4])], [("y", [1, 4])]), raw)
    branch = oh.make_graph([oh.make_node("Identity", ["x"], ["z"])], "b", [], [oh.make_tensor_value_info("z", 1, [1])])
    yield "if", model([oh.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)], [],
                      [("x", [1]), ("c", [])], [("y", [1])])


def arrays():
    for dtype in ("<f4", "<f2", "|u1", "<i8", ">f4", "|b1"):
        yield f"{dtype[1:]}{'-big' if dtype[0] == '>' else ''}", npy(np.arange(6).reshape(2, 3).astype(dtype))
    yield "fortran", npy(np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    yield "empty", npy(np.zeros((0, 3), np.float32))
    yield "scalar", npy(np.float32(1))


def zips():
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as file:
            for member in ("input.npy", "labels.npy"):
                file.writestr(zipfile.ZipInfo(member), npy(np.arange(8, dtype=np.float32)), method)
        yield name, out.getvalue()


def png(width, height, colour, depth=8, interlace=0):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes((x * 7 + y) % 8 for x in range(width * channels * depth // 8)) for y in range(height))
    palette = chunk(b"PLTE", bytes(range(24))) if colour == 3 else b""
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
            + palette + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


# A grey JPEG of 8 x 8 pixels, baseline: the shortest tables there are.
JPEG = bytes.fromhex(
    "ffd8ffdb004300" + "01" * 64 + "ffc0000b080008000801011100" "ffc40014000100000000000000000000000000000000"
    "ffc40014100100000000000000000000000000000000" "ffda0008010100003f00" "7f" "ffd9")


# ---- language models

def language_models():
    hf_checkpoints.VOCAB, hf_checkpoints.HIDDEN, hf_checkpoints.WIDE = 16, 16, 20
    with tempfile.TemporaryDirectory() as folder:
        for case in hf_checkpoints.cases():
            if case.files > 1:
                continue
            case.make(pathlib.Path(folder, case.name))
            yield case.name, *(pathlib.Path(folder, case.name, f).read_bytes() for f in ("config.json", "model.safetensors"))


def quantized_layers():
    """One linear layer, 32 inputs and 8 outputs, in each layout."""
    rng = np.random.default_rng(2)
    module = "model.layers.0.self_attn.q_proj"
    words = lambda *shape: rng.integers(0, 2**31 - 1, shape).astype(np.int32)
    half = lambda *shape: rng.uniform(0.1, 1, shape).astype(np.float16)
    base = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    def of(method, parts, **config):
        text = json.dumps({**base, "quantization_config": {"quant_method": method, **config}}).encode()
        return text, safetensors({f"{module}.{n}": t for n, t in parts.items()})
    yield "gptq", *of("gptq", {"qweight": ("I32", words(4, 8)), "qzeros": ("I32", np.full((1, 1), 0x77777777, np.int32)),
                              "scales": ("F16", half(1, 8)), "g_idx": ("I32", np.zeros(32, np.int32)),
                              "bias": ("F16", half(8))}, bits=4, group_size=32, desc_act=False, sym=True)
    yield "gptq-act-order", *of("gptq", {
        "qweight": ("I32", words(4, 8)), "qzeros": ("I32", np.full((2, 1), 0x66666666, np.int32)),
        "scales": ("F16", half(2, 8)), "g_idx": ("I32", rng.permutation(np.arange(32) // 16).astype(np.int32))},
        bits=4, group_size=16, desc_act=True, checkpoint_format="gptq_v2")
    yield "awq", *of("awq", {"qweight": ("I32", words(32, 1)), "qzeros": ("I32", words(1, 1)), "scales": ("F16", half(1, 8))},
                     bits=4, group_size=32, version="gemm", zero_point=True)
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "shape": [8, 32], "dtype": "float16"}).encode()
    yield "bitsandbytes", *of("bitsandbytes", {
        "weight": ("U8", rng.integers(0, 255, (128, 1)).astype(np.uint8)),
        "weight.absmax": ("F32", half(4).astype(np.float32)), "weight.quant_map": ("F32", np.linspace(-1, 1, 16, dtype=np.float32)),
        "weight.quant_state.bitsandbytes__nf4": ("U8", np.frombuffer(state, np.uint8))},
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=False)
    yield "compressed-tensors", *of("compressed-tensors", {
        "weight_packed": ("I32", words(8, 4)), "weight_scale": ("F16", half(8, 1)),
        "weight_shape": ("I64", np.array([8, 32], np.int64))}, format="pack-quantized", config_groups={"group_0": {
            "targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group",
                                               "group_size": 32}}})


def small_tokenizer(kind):
    pieces = {"BPE": {"vocab": {t: i for i, t in enumerate(["<s>", "a", "b", "ab", "Ġ", "Ġa", "é"])},
                      "merges": ["a b", ["Ġ", "a"]]},
              "Unigram": {"vocab": [["<unk>", 0.0], ["▁", -1.0], ["a", -2.0], ["▁a", -1.5], ["ab", -2.5]], "unk_id": 0},
              "WordPiece": {"vocab": {"[UNK]": 0, "a": 1, "##b": 2}, "unk_token": "[UNK]"},
              "WordLevel": {"vocab": {"[UNK]": 0, "a": 1, "ab": 2}, "unk_token": "[UNK]"}}[kind]
    return {"version": "1.0", "added_tokens": [{"id": 0, "content": "<s>" if kind == "BPE" else list("ab")[0] + "!",
                                                "special": True, "normalized": False, "lstrip": True, "rstrip": False,
                                                "single_word": False}] if kind == "BPE" else [],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"},
                                                               {"type": "Replace", "pattern": {"String": "x"}, "content": "a"}]},
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+|\\w+"}, "behavior": "Isolated", "invert": False},
            "post_processor": None, "decoder": {"type": "ByteLevel"} if kind == "BPE" else None,
            "model": {"type": kind, **pieces}}


def sentencepiece_model():
    def field(number, wire, payload):
        head = bytes([number << 3 | wire])
        return head + (bytes([len(payload)]) + payload if wire == 2 else payload)
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("▁a", -1.0, 1), ("b", -2.0, 1), ("<0x41>", 0.0, 6)]
    out = b"".join(field(1, 2, field(1, 2, t.encode()) + field(2, 5, struct.pack("<f", s)) + field(3, 0, bytes([k])))
                   for t, s, k in pieces)
    return out + field(2, 2, field(3, 0, b"\1")) + field(3, 2, field(3, 0, b"\1"))


# ---- messages

def encode(message, text):
    done = subprocess.run(["protoc", f"-I{TOP / 'proto'}", f"--encode=quant.v1.{message}", "quant/v1/workers.proto"],
                          input=text.encode(), capture_output=True, check=True)
    return done.stdout


SPEC = 'quantize { model_id: "m-1" calibration_dataset_id: "d-1" recipe { %s } output_name: "out" }'
RECIPES = {
    "static": "static_int8 {} calibration { observer: OBSERVER_PERCENTILE percentile: 99.9 }",
    "dynamic": "dynamic {}", "rtn": "rtn { grid { bits: 4 group_size: 32 } }",
    "gptq": "gptq { grid { bits: 4 } damping: 0.01 act_order: ACT_ORDER_STATIC }",
    "awq": "awq { grid { bits: 4 } grid_points: 10 }", "nf4": "nf4 { double_quantization: true }",
    "hqq": "hqq { grid { bits: 4 } }", "rules": 'dynamic {} rules { name: "*fc*" skip: true } seed: 7',
}


def call(method, message="", text=""):
    request = encode(message, text) if message else b"\0" * int(text or 0)
    return bytes([method]) + struct.pack("<H", len(request)) + request


def job_histories():
    submit = call(0, "SubmitJobRequest", 'spec { %s max_attempts: 2 labels { key: "a" value: "b" } } request_id: "r-1"'
                  % (SPEC % RECIPES["dynamic"]))
    lease = call(7, "LeaseJobRequest", 'worker { id: "w-1" slots: 2 }')
    beat = call(8, "HeartbeatRequest", 'worker { id: "w-1" slots: 2 } leases { job_id: "1" token: -1 progress '
                '{ phase: "load" fraction: 0.5 message: "x" } }')
    digest = 'digest { sha256: "%s" size_bytes: 3 }' % ("ab" * 32)
    def complete(outcome):
        return call(9, "CompleteJobRequest", f'worker_id: "w-1" job_id: "1" token: -1 {outcome}')
    done = complete('success { report { } files { path: "model.onnx" %s } }' % digest)
    failed = complete('failure { error_class: ERROR_CLASS_RETRYABLE reason: "OUT_OF_MEMORY" message: "m" phase: "load" }')
    cancel = call(3, "CancelJobRequest", 'id: "1"')
    tick, restart = call(10, text="60"), call(11)
    yield "succeeds", submit + submit + lease + beat + done + call(6, "GetJobReportRequest", 'id: "1"')
    yield "retries", submit + lease + failed + tick + lease + failed + call(4, "RetryJobRequest", 'id: "1"') + lease + done
    yield "cancelled", submit + lease + cancel + beat + complete("cancelled {}") + call(5, "DeleteJobRequest", 'id: "1"')
    yield "released", submit + lease + complete("released {}") + restart + lease + done + done
    yield "lost", submit + lease + call(10, text="100") + tick + lease + restart + beat + done
    yield "listed", submit + submit + call(2, "ListJobsRequest", 'page_size: 1 kind: "quantize" states: JOB_STATE_QUEUED '
                                           'labels { key: "a" value: "b" }') + call(11, "WatchJobRequest", 'id: "1"')


def artifact_histories():
    files = 'files { path: "model.onnx" digest { sha256: "a" } } files { path: "w/weights.bin" digest { sha256: "b" } }'
    model = call(0, "CreateModelRequest", 'name: "n" ' + files)
    yield "model", model + call(2, "GetModelRequest", 'id: "1"') + call(3, "ListModelsRequest", "page_size: 1")
    yield "deleted", model + call(5, "DeleteModelRequest", 'id: "1"') + call(7, text="9") + model
    yield "dataset", call(1, "CreateDatasetRequest", files) + call(4, "ListDatasetsRequest", 'page_token: "x"')
    yield "expired", (call(0, "CreateModelRequest", 'ttl { seconds: 60 } ' + files) + call(9, text="9") +
                      call(8, "SetRetentionRequest", 'id: "1" pinned: true') + call(9, text="9000") +
                      call(8, "SetRetentionRequest", 'id: "1" pinned: false ttl { seconds: 1 }') + call(9, text="9") + model)
    yield "published", call(6, "CreateModelRequest", files) * 2
    yield "paths", b"".join(call(0, "CreateModelRequest", 'files { path: "%s" digest { sha256: "a" } }' % p)
                            for p in ("../x.onnx", "/x.onnx", "a//b.onnx", "x\\\\y.onnx", "x.onnx"))


def uploads():
    piece = lambda method, data: bytes([method]) + struct.pack("<H", len(data)) + data
    yield "whole", piece(4, b"a" * 100)
    yield "resumed", piece(0, b"a" * 40) + piece(2 | 8, b"a" * 30) + piece(2 | 4, b"a" * 30)
    yield "wrong", piece(4, b"b" * 100) + piece(2 | 4, b"a" * 100)
    yield "two", piece(0, b"a" * 50) + piece(1, b"a" * 20) + piece(3 | 4, b"a" * 80) + piece(6, b"a" * 50)


def blob_messages():
    message = encode("WriteBlobRequest", 'upload_id: "u" digest { sha256: "ab" size_bytes: 100 } write_offset: 7 '
                     f'data: "{"d" * 60}" finish_write: true')
    yield "whole", b"\xff" + message
    yield "pieces", b"\5" + message
    yield "twice", b"\0" + message * 2
    yield "unknown", b"\5" + message + b"\xa8\6\7" + b"\x20\5"


def rpcs():
    request = lambda message, text: struct.pack("<BH", 0, len(encode(message, text))) + encode(message, text)
    digest = 'digest { sha256: "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb" size_bytes: 1 }'
    services = [
        ("FindMissingBlobs", digest.replace("digest", "digests", 1)), ("QueryWriteStatus", 'upload_id: "u" ' + digest),
        ("WriteBlob", f'upload_id: "u" {digest} data: "a" finish_write: true'), ("ReadBlob", digest),
        ("CreateModel", 'files { path: "m.onnx" %s }' % digest), ("GetModel", 'id: "m-1"'), ("ListModels", "page_size: 2"),
        ("DeleteModel", 'id: "m-1"'), ("CreateDataset", 'files { path: "d.npy" %s }' % digest), ("GetDataset", 'id: "d-1"'),
        ("ListDatasets", ""), ("DeleteDataset", 'id: "d-1"'),
        ("SetRetention", 'id: "m-1" pinned: true ttl { seconds: 60 }'), ("GetStorage", ""),
        ("SubmitJob", "spec { %s }" % (SPEC % RECIPES["rtn"])),
        ("GetJob", 'id: "j-1"'), ("ListJobs", "page_size: 1"), ("WatchJob", 'id: "j-1"'), ("CancelJob", 'id: "j-1"'),
        ("RetryJob", 'id: "j-1"'), ("DeleteJob", 'id: "j-1"'), ("GetJobReport", 'id: "j-1"'),
        ("LeaseJob", 'worker { id: "w" slots: 1 }'), ("Heartbeat", 'worker { id: "w" slots: 1 }'),
        ("CompleteJob", 'worker_id: "w" job_id: "j-1" token: 1 released {}'), ("ListWorkers", ""), ("DrainWorker", 'id: "w"')]
    for number, (name, text) in enumerate(services):
        yield name, bytes([number]) + request(name + "Request", text)


def resume_point():
    facts = {"notes": ["n"], "changed": ["model.norm.weight"], "layers": [
        {"name": "q", "op": "MatMul", "method": "gptq", "bits": 4, "group_size": 8, "fallback": "", "parameters": 64,
         "routed_tokens": 0, "output": "o", "relative_error": 0.5,
         "grouped": {"rows": 8, "cols": 8, "bits": 4, "group_size": 8}}]}
    tensors = {"0.codes": ("U8", np.arange(64, dtype=np.uint8) % 16), "0.scales": ("F32", np.ones(8, np.float32)),
               "0.zeros": ("U8", np.full(8, 8, np.uint8)), "changed.0": ("F32", np.ones(4, np.float32))}
    own = {"fingerprint": "fingerprint"}
    return (safetensors(tensors, {**own, "block": json.dumps(facts)}),
            safetensors({"hidden": ("U8", np.zeros(16, np.uint8))}, own))


def of_jobs():
    """What the real programs write: quantized ONNX, a GGUF file, a report."""
    with Service(workers=1) as service:
        model = service.upload("model", EXAMPLE / "model.onnx")
        job = service.run_job("--model", model, "--method", "dynamic", "--latency-runs", "-1", "--evaluation-samples", "4")
        report = json.dumps(service.report(job["id"])).encode()
        hf_checkpoints.VOCAB, hf_checkpoints.HIDDEN, hf_checkpoints.WIDE = 1024, 32, 32
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = pathlib.Path(folder, "llama")
            next(hf_checkpoints.cases()).make(checkpoint)
            (checkpoint / "tokenizer.json").write_bytes((STORIES / "model" / "tokenizer.json").read_bytes())
            model = service.upload("model", checkpoint)
            result = service.quantctl("job", "submit", "--model", model, "--method", "rtn", "--bits", "4", "--group-size", "32",
                                      "--format", "gguf", "--latency-runs", "-1", "--watch", "--output", "json")
            gguf = None
            if result.code == 0:
                out = pathlib.Path(folder, "out")
                service.ok("model", "download", result.json["result_model_id"], out)
                gguf = next(out.rglob("*.gguf")).read_bytes()
            else:
                print("no gguf of a job:", result)
    return report, gguf


def gguf_by_hand():
    text = lambda s: struct.pack("<Q", len(s)) + s
    keys = [(b"general.architecture", 8, text(b"llama")), (b"llama.block_count", 4, struct.pack("<I", 1)),
            (b"llama.attention.head_count", 4, struct.pack("<I", 2)),
            (b"tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text(b"a") + text(b"b")),
            (b"tokenizer.ggml.scores", 9, struct.pack("<IQff", 6, 2, 0.5, 1.5))]
    tensors = [(b"token_embd.weight", (32, 2), 0, 256), (b"blk.0.attn_q.weight", (32, 4), 2, 72),
               (b"blk.0.attn_k.weight", (32, 2), 8, 68), (b"output_norm.weight", (32,), 1, 64)]
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    out += b"".join(text(k) + struct.pack("<I", t) + v for k, t, v in keys)
    data = b""
    for name, shape, kind, size in tensors:
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += bytes(i % 60 for i in range(size)) + b"\0" * (-size % 32)
    return out + b"\0" * (-len(out) % 32) + data


def main():
    for name, model in onnx_models():
        model, *beside = model if isinstance(model, tuple) else (model,)
        seed("onnx", name, model.SerializeToString(), *beside)
    seed("safetensors", "two", safetensors({"a": ("F32", np.ones((2, 3), np.float32)), "b": ("BF16", np.zeros(4, np.uint16))},
                                           {"format": "pt"}))
    seed("safetensors", "empty", safetensors({"none": ("I64", np.zeros((0, 2), np.int64))}))
    for name, data in arrays():
        seed("npy", name, data)
    for name, data in zips():
        seed("npz", name, data)
    for colour, name in ((0, "grey"), (2, "rgb"), (3, "palette"), (6, "rgba")):
        seed("image", f"{name}.png", png(6, 5, colour))
    seed("image", "rgb16.png", png(3, 3, 2, depth=16))
    seed("image", "grey.jpeg", JPEG)
    seed("gguf", "by-hand", gguf_by_hand())
    report, gguf = of_jobs()
    if gguf and len(gguf) < 60_000:
        seed("gguf", "llama-q4_0", gguf)
    seed("report", "job", report)
    seed("report", "serialized", encode("Report", 'size { original_bytes: 9 quantized_bytes: 3 } layers { name: "a" bits: 4 '
                                                  'sqnr_db: 20 } metrics { name: "top1" original: 90 quantized: 89 }'))

    for name, *parts in language_models():
        seed("huggingface", name, *parts)
    for name, *parts in quantized_layers():
        seed("huggingface", "quantized-" + name, *parts)
    seed("checkpoint_index", "one", json.dumps({"metadata": {"total_size": 16}, "weight_map": {"a": "a.safetensors"}}).encode(),
         safetensors({"a": ("F32", np.zeros(4, np.float32))}))
    for kind in ("BPE", "Unigram", "WordPiece", "WordLevel"):
        text = json.dumps(small_tokenizer(kind)).encode()
        seed("tokenizer", kind, text, b'{"bos_token": "<s>", "add_bos_token": true}', b"a ab  xa")
        seed("gguf_vocabulary", kind, text, b'{"bos_token": "<s>", "chat_template": "{{ x }}"}')
    seed("tokenizer", "stories", (STORIES / "model" / "tokenizer.json").read_bytes(), b"", b"Once upon")
    seed("vocab_and_merges", "small", json.dumps(small_tokenizer("BPE")["model"]["vocab"]).encode(), b"#version: 0.2\na b\n")
    seed("sentencepiece", "small", sentencepiece_model())

    for name, text in RECIPES.items():
        seed("recipe", name + ".txtpb", text.encode())
    seed("recipe", "static.json", json.dumps({
        "static_int8": {"activation_symmetry": "ASYMMETRIC"}, "calibration": {"observer": "PERCENTILE", "percentile": 99.9},
        "rules": [{"name": "*/classifier/*", "skip": True}], "seed": "7"}).encode())
    seed("preprocess", "shapes", b'{"layout": "NHWC", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}')
    for path in sorted(EXAMPLE.rglob("preprocess.json")):
        seed("preprocess", path.parent.name, path.read_bytes())
    trace = "-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
    for name, text in {"v00": f"00{trace}01", "v01-longer": f"01{trace}fb-more", "ff": f"ff{trace}01",
                       "zero": f"00-{'0' * 32}-b7ad6b7169203331-01"}.items():
        seed("traceparent", name, text.encode())
    for name, text in {"script": "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>",
                       "form": "token=t-0%2E%zz%4&next=%2Fjobs%3Fstate%3Drunning&a", "bytes": "\x1b[2J ä €"}.items():
        seed("html", name, text.encode())
    seed("resume", "gptq", *resume_point())
    frame = encode("Progress", 'phase: "load" fraction: 0.5 message: "m" update_time { seconds: 9 }')
    iv = "6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19"  # SHA-256 of nothing yet
    seed("s3", "objects", b"<ListBucketResult xmlns='x'><Prefix/><Contents><Key>a&amp;b&#x41;</Key><Size>3</Size>"
         b"<LastModified>2026-11-26T00:00:00.000Z</LastModified></Contents><IsTruncated>true</IsTruncated>"
         b"<NextContinuationToken>t</NextContinuationToken></ListBucketResult>",
         f"quant-upload 1 8388608 0 3 {iv}{b'abc'.hex()} -\nabc".encode())
    seed("s3", "parts", b"<R><Part><PartNumber>1</PartNumber><ETag>&quot;e&quot;</ETag><Size>5</Size></Part></R>",
         f"quant-upload 1 64 1 0 {iv} id\n".encode())
    seed("child_output", "frames", b"\5" + 2 * (struct.pack("<I", len(frame)) + frame))

    for name, recipe in RECIPES.items():
        seed("job_spec", name, encode("JobSpec", SPEC % recipe))
    seed("job_spec", "benchmark", encode("JobSpec", 'benchmark { model_id: "m-1" dataset_id: "d-1" } priority: 2'))
    for target, histories in (("jobs", job_histories), ("artifacts", artifact_histories), ("uploads", uploads),
                              ("blob_message", blob_messages), ("rpc", rpcs)):
        for name, data in histories():
            seed(target, name, data)


if __name__ == "__main__":
    main()
