"""Language models in few bits: how much they lose, how much they take, and how fast they run beside others.

    python benchmarks/lowbit.py [--only solvers,quality,encode,causal] [--quick]

    solvers   the output error of MiniLM's layers, for every recipe and solver
    quality   nDCG@10 on judged collections and cosine to float32 of MiniLM under many plans, with bytes
    encode    MiniLM on 500 passages of about 200 tokens, beside torch, ONNX Runtime and OpenVINO
    causal    SmolLM2-135M (whose weights come from a 4-bit file): prefill and decode beside torch

QINDEX_DATA must name the folder with the judged collections. Speed is measured on one thread, ours and the others' in
turns. Writes benchmarks/results/lowbit.json; a run of some sections leaves the others as they were.
"""

import dataclasses
import gc
import time
from collections.abc import Callable
from typing import Any

import sections
from bars import bar, invariant

SECTIONS = {"solvers": 2, "quality": 2, "encode": 1, "causal": 1}  # and the threads of each
PACKAGES = ["numpy", "numba", "torch", "transformers", "sentence-transformers"]
PEER_PACKAGES = {"encode": ["onnxruntime", "openvino"]}
STARTED_WITH = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

JUDGED = ("cran", "med", "xquad-en")
SCHEMES = ("int8", "int4", "int3", "int2", "nf4", "mxfp4", "lloydmax4")


def measured(section: str, quick: bool) -> dict[str, Any]:
    found: dict[str, Any] = globals()[section](quick)
    return found


def packages(section: str) -> list[str]:
    return PACKAGES + PEER_PACKAGES.get(section, [])


def solvers(quick: bool) -> dict[str, Any]:
    """Mean relative output error over the layers of MiniLM, by statistics of texts that nothing else uses."""
    import numpy as np

    from lowbit_models import calibration_texts, sentence_transformer
    from qindex import lowbit
    from qindex.lowbit.network import layers_of
    from qindex.lowbit.solvers import error
    from timing import shown

    model = sentence_transformer()
    network = model[0].auto_model
    texts = calibration_texts(10 if quick else 300)
    statistics = lowbit.collect(network, texts, model.tokenizer)
    layers = [layer for layer in layers_of(network) if layer.name.startswith("encoder.")][: 3 if quick else None]
    ways = {
        "nearest": lowbit.Nearest(),
        "nearest, clipped": lowbit.Nearest(clip=True),
        "HQQ": lowbit.HQQ(),
        "GPTQ": lowbit.GPTQ(),
    }
    rows = []
    for name in SCHEMES[:2] if quick else SCHEMES:
        scheme = lowbit.RECIPES[name].scheme
        for way, solver in ways.items():
            started = time.perf_counter()
            errors = [
                error(layer.weight, solver.solve(layer.weight, scheme, statistics[layer.name]), statistics[layer.name])
                for layer in layers
            ]
            seconds = time.perf_counter() - started
            rows.append(
                shown({"recipe": name, "solver": way, "error": float(np.mean(errors)), "seconds": round(seconds, 2)})
            )
    found = {(row["recipe"], row["solver"]): row["error"] for row in rows}
    bars = []
    for bits in () if quick else (4, 3, 2):
        plain = found[f"int{bits}", "nearest"]
        others = ["GPTQ"] if bits == 4 else ["GPTQ", "nearest, clipped", "HQQ"]
        for way in others:
            mine = found[f"int{bits}", way]
            bars.append(bar(f"layer error of {way} in {bits} bits", f"below {plain:.3g}", f"{mine:.3g}", mine < plain))
    if not quick:
        worst = max(found["int8", way] for way in ways)
        bars.append(bar("layer error in 8 bits, every solver", "within 1e-2", f"{worst:.2e}", worst <= 1e-2))
    settings = {"texts": len(texts), "layers": len(layers), "tokens": statistics[layers[0].name].count}
    return {"settings": settings, "rows": rows, "bars": bars}


def plans() -> dict[str, Any]:
    """Plans by name."""
    from qindex import lowbit

    def linears(recipe: Any) -> Any:
        return lowbit.Plan.of({"embeddings.*": "int8", "*": recipe})

    def solved(name: str, solver: Any) -> Any:
        return linears(dataclasses.replace(lowbit.RECIPES[name], solver=solver))

    return (
        {"Plan.default(8)": lowbit.Plan.default(8), "Plan.default(4)": lowbit.Plan.default(4)}
        | {name: linears(name) for name in ("int3", "int2", "nf4", "mxint8", "mxfp4", "lloydmax4")}
        | {f"{name}, GPTQ": solved(name, lowbit.GPTQ()) for name in ("int4", "int3")}
        | {"int4, scaled": solved("int4", lowbit.Scaled(lowbit.Nearest(clip=True)))}
    )


def quality(quick: bool) -> dict[str, Any]:
    """What each plan takes and loses."""
    import numpy as np

    import qindex
    from lowbit_models import calibration_texts, sentence_transformer
    from qindex import lowbit
    from quality_data import judged
    from quality_measures import interval, ndcg
    from timing import shown

    model = sentence_transformer()
    collections = judged(JUDGED[-1:] if quick else JUDGED)
    statistics = lowbit.collect(model[0].auto_model, calibration_texts(10 if quick else 300), model.tokenizer)

    def encoded(one: Any) -> dict[str, tuple[Any, Any]]:
        encoder = qindex.SentenceEncoder(one)
        return {
            title: (
                encoder.encode_document(list(collection.documents.values())),
                encoder.encode_query(list(collection.queries.values())),
            )
            for title, collection in collections.items()
        }

    def measured(vectors: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
        return {
            title: ndcg(
                collection,
                qindex.FlatIndex.build(vectors[title][0], qindex.Float32()).search(vectors[title][1], 10).ids,
            )
            for title, collection in collections.items()
        }

    exact = encoded(model)
    best = measured(exact)
    weights = sum(p.numel() for p in model[0].auto_model.parameters())
    rows = [
        shown({"plan": "float32", "bytes": 4 * weights, "bits": 32.0, "cosine": 1.0, "least_cosine": 1.0,
               "ndcg": round(float(np.mean([one.mean() for one in best.values()])), 4)})
    ]  # fmt: skip
    for name, plan in list(plans().items())[: 2 if quick else None]:
        started = time.perf_counter()
        quantized = lowbit.quantize(model, plan, statistics)
        seconds = time.perf_counter() - started
        report = lowbit.report(quantized)
        vectors = encoded(quantized)
        cosines = np.concatenate([np.einsum("ij,ij->i", exact[title][0], vectors[title][0]) for title in collections])
        found = measured(vectors)
        loss = interval([100 * (best[title] - found[title]) for title in collections])
        mean = float(np.mean([one.mean() for one in found.values()]))
        rows.append(
            shown({"plan": name, "bytes": report.nbytes, "bits": round(report.bits, 3),
                   "cosine": round(float(cosines.mean()), 5), "least_cosine": round(float(cosines.min()), 5),
                   "ndcg": round(mean, 4), "loss": loss, "share_lost": round(1 - mean / rows[0]["ndcg"], 5),
                   "quantize_s": round(seconds, 2)})
        )  # fmt: skip
        del quantized
        gc.collect()
    by = {row["plan"]: row for row in rows}
    eight, four = by["Plan.default(8)"], by["Plan.default(4)"]
    bars = [
        bar("mean cosine to float32, 8 bits", "at least .995", f"{eight['cosine']:.4f}", eight["cosine"] >= 0.995),
        bar("nDCG@10 lost, 8 bits", "under 0.3 %", lost(eight), eight["share_lost"] < 0.003),
        bar("nDCG@10 lost, 4 bits", "under 1 %", lost(four), four["share_lost"] < 0.01),
        bar(
            "seconds to quantize MiniLM, Plan.default()", "under 10", f"{eight['quantize_s']}", eight["quantize_s"] < 10
        ),
    ]
    return {"settings": {"collections": list(collections)}, "rows": rows, "bars": [] if quick else bars}


def lost(row: dict[str, Any]) -> str:
    loss = row["loss"]
    return f"{row['share_lost']:.2%} ({loss['mean']:+.2f} points, {loss['low']:+.2f} to {loss['high']:+.2f})"


def encode(quick: bool) -> dict[str, Any]:
    """Tokens a second, in turns: the median of rounds, or one of a fifth of the texts for those that no bar names."""
    import numpy as np

    from lowbit_models import BATCH, Encoder, encoder_peers, passages, seconds, sentence_transformer, unit
    from qindex import lowbit
    from timing import shown

    model = sentence_transformer()
    texts = passages(8 if quick else 500, model.tokenizer)

    def counted(some: list[str]) -> int:
        return sum(map(len, model.tokenizer(some, truncation=True, max_length=model.max_seq_length)["input_ids"]))

    plans = {"int8": lowbit.Plan.default(8), "int4": lowbit.Plan.default(4), "mxint8": lowbit.Plan.of({"*": "mxint8"})}
    models = {name: lowbit.quantize(model, plan) for name, plan in plans.items()}

    def ours(name: str) -> Callable[[list[str]], Any]:
        return lambda some: unit(models[name].encode(some, batch_size=BATCH, show_progress_bar=False))

    systems = [Encoder(f"qindex {name}", lowbit.report(one).nbytes, ours(name)) for name, one in models.items()]
    systems += encoder_peers(model)
    compared = ("qindex int8", "qindex int4", "qindex mxint8", "torch float32", "torch dynamic int8")
    few = texts[: len(texts) // 5]
    exact = next(one for one in systems if one.name == "torch float32").encode(few)
    cosines = {one.name: float(np.einsum("ij,ij->i", one.encode(few), exact).mean()) for one in systems}
    asked = {one.name: texts if one.name in compared else few for one in systems}
    calls = {one.name: lambda one=one: one.encode(asked[one.name]) for one in systems}
    spent = seconds(calls, 1)
    spent |= seconds({name: calls[name] for name in compared}, 1 if quick else 3)
    speeds = {name: counted(asked[name]) / spent[name] for name in spent}
    rows = [
        shown({"name": one.name, "bytes": one.n_bytes, "texts": len(asked[one.name]),
               "tokens_per_s": round(speeds[one.name]), "ratio": round(speeds[one.name] / speeds["torch float32"], 3),
               "cosine": round(cosines[one.name], 5)})
        for one in systems
    ]  # fmt: skip
    by = {row["name"]: row for row in rows}
    eight, four, dynamic = by["qindex int8"]["ratio"], by["qindex int4"]["ratio"], by["torch dynamic int8"]["ratio"]
    bars = [
        bar("encoding in int8, by torch float32's time", "at least 2.5x", f"{eight:.2f}x", eight >= 2.5),
        bar(
            "encoding in int8, by torch dynamic int8's",
            "at least 1.4x",
            f"{eight / dynamic:.2f}x",
            eight / dynamic >= 1.4,
        ),
        bar("encoding in int4, by torch float32's time", "at least 2x", f"{four:.2f}x", four >= 2),
    ]
    same = invariant(ours("int8"), texts[: 4 if quick else 40])
    bars.append(bar("a text's embedding alone, in any batch and order, 1 or 2 threads", "equal to the bit", *same))
    return {"settings": {"texts": len(texts), "tokens": counted(texts), "batch": BATCH}, "rows": rows, "bars": bars}


def causal(quick: bool) -> dict[str, Any]:
    """Tokens a second, at once and one by one, and the linear layers of a step alone."""
    import torch

    import lowbit_causal

    torch.manual_seed(0)
    return lowbit_causal.measured(quick)


if __name__ == "__main__":
    sections.run("lowbit", __doc__, SECTIONS, packages, STARTED_WITH, measured)
