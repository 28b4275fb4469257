"""The tables and sentences of results/rag_storage.json."""

from typing import Any

from rag_storage_picture import Row, front
from table_text import code, measured, table

BUDGETS = (48, 96, 192, 384)  # bytes per vector
FLOAT8_LOSES = 0.3  # percent, less than: the study's conclusion
WAYS = {"study": "As in the study", "decoded": "Decoded", "qindex": "By qindex"}


def conclusions(result: dict[str, Any]) -> str:
    """The study's conclusions, each with what was found and whether that agrees."""
    found = {(row["way"], row["name"]): row for row in result["rows"]}
    lines = [f"1. *Float8 loses less than {FLOAT8_LOSES} % at a quarter of float32's bytes.*"]
    for way in ("study", "decoded"):
        losses = {form: found[way, f"float8 {form}"]["loss"] for form in ("e4m3", "e5m2", "e3m4")}
        verdict = _verdict([{name: FLOAT8_LOSES - loss[name] for name in loss} for loss in losses.values()])
        shown = ", ".join(f"{form} {_interval(loss)}" for form, loss in losses.items())
        lines.append(f"   - {WAYS[way]}: {shown}; {verdict}. Of int8, which takes as many bytes: "
                     f"{_interval(found[way, 'int8']['loss'])}.")  # fmt: skip
    lines.append(
        "2. *PCA is the best reducer*, here of two, in float8 e4m3: what it keeps more than random projection."
    )
    for way in WAYS:
        pairs = [one for one in result["gains"] if one["claim"] == "PCA" and one["way"] == way]
        shown = ", ".join(f"{found[way, one['first']]['share']:.0%} {_interval(one['gain'])}" for one in pairs)
        lines.append(f"   - {WAYS[way]}: {shown}; {_verdict([one['gain'] for one in pairs])}.")
    lines.append("3. *PCA to half and float8, an eighth of float32's bytes, loses less than int8 at a quarter.*")
    for way in WAYS:
        [one] = [one for one in result["gains"] if one["claim"] == "half" and one["way"] == way]
        first, second = (_interval(found[way, one[side]]["loss"]) for side in ("first", "second"))
        lines.append(f"   - {WAYS[way]}: {first} against {second}, a gain of {_interval(one['gain'])}; "
                     f"{_verdict([one['gain']])}.")  # fmt: skip
    checks = {row["type"]: _interval(row["loss"]) for row in result["rows"] if row["way"] == "check"}
    lines += [
        "",
        f"int8 as it lies loses {_interval(found['study', 'int8']['loss'])}; the very same bytes, decoded, "
        f"{checks['same bytes']}; as it lies, but without the dimensions that hardly vary, {checks['without flat']}.",
    ]
    return "\n".join((*lines, "", f"In percent of float32's nDCG@10. {measured(result['environment'])}", ""))


def _verdict(margins: list[dict[str, float]]) -> str:
    """Whether all margins are above 0, and whether their intervals leave no doubt."""
    holds = all(margin["mean"] > 0 for margin in margins)
    sure = all(min(margin.values()) > 0 for margin in margins) if holds else any(max(m.values()) < 0 for m in margins)
    return ("holds" if holds else "does not hold") + ("" if sure else ", but the interval leaves it open")


def budgets(result: dict[str, Any]) -> str:
    rows = []
    for n_bytes in BUDGETS:
        cells = [f"{n_bytes}"]
        for way in WAYS:
            best = front([row for row in result["rows"] if row["way"] == way and row["bytes"] <= n_bytes])[-1]
            cells += [code(best["name"]), f"{best['bytes']}", _kept(best)]
        rows.append(tuple(cells))
    heads = [head for way in ("the study", "decoded", "qindex") for head in (f"best of {way}", "bytes", "of float32")]
    elsewhere = ", ".join(
        f"{code(row['name'].partition(',')[0])} {_kept(row)}" for row in result["rows"] if row["type"] == "other text"
    )
    return table(
        ("at most", *heads),
        rows,
        "The most nDCG@10 in so many bytes per vector or fewer. With axes from the documents of the other collections, "
        f"where the study's PCA has them: {elsewhere}. " + measured(result["environment"]),
    )


def types(result: dict[str, Any]) -> str:
    """Each type, with all dimensions and with fewer, both ways."""
    found = {(row["way"], row["name"]): row for row in result["rows"]}
    rows = [
        (
            name,
            f"{raw['bytes']:,}",
            _kept(raw),
            _loss(raw),
            _kept(found["decoded", name]),
            _loss(found["decoded", name]),
        )
        for (way, name), raw in found.items()
        if way == "study"
    ]
    return table(("codes", "bytes", "as they lie", "loss, %", "decoded", "loss, %"), rows, _caption(result))


def systems(result: dict[str, Any]) -> str:
    """nDCG@10 on each collection."""
    titles = list(result["settings"]["collections"])
    rows = [
        (code(row["name"]), row["way"], f"{row['bytes']:,}", *(f"{row['ndcg'][title]:.4f}" for title in titles),
         f"{row['mean']:.4f}", _kept(row), _loss(row))
        for row in result["rows"]
    ]  # fmt: skip
    return table(("codes", "way", "bytes", *titles, "mean", "of float32", "loss, %"), rows, _caption(result))


def _kept(row: Row) -> str:
    return f"{100 - row['loss']['mean']:.1f}%"


def _loss(row: Row) -> str:
    return _interval(row["loss"])


def _interval(found: dict[str, float]) -> str:
    if found["low"] == found["high"] == 0:
        return "0"
    mean, low, high = (round(found[name], 2) + 0.0 for name in ("mean", "low", "high"))  # + 0.0: no minus zero
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"


def _caption(result: dict[str, Any]) -> str:
    settings = result["settings"]
    named = ", ".join(
        f"{title} ({one['documents']:,} documents, {one['queries']:,} queries)"
        for title, one in settings["collections"].items()
    )
    return (
        f"{settings['measure']} on {named}, encoded by {settings['model']}: the mean of the collections in percent of "
        f"float32's, and what is lost, with its {settings['confidence']:.0%} interval over the queries. "
        + measured(result["environment"])
    )
