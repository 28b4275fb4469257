"""Which layer of a model is stored how: ordered rules from the names of layers to recipes."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from qindex.io import register
from qindex.lowbit.recipes import RECIPES, Recipe
from qindex.lowbit.solvers import GPTQ, HQQ, Nearest, Scaled


@register("lowbit.Rule")
@dataclass(frozen=True)
class Rule:
    """Layers whose names match `pattern` (`*` stands for anything, `?` for one character) follow `recipe`."""

    pattern: str
    recipe: Recipe

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str) or not self.pattern:
            raise ValueError(f"pattern must be the name of layers, with * for any part of it, got {self.pattern!r}")
        if not isinstance(self.recipe, Recipe):
            raise TypeError(f"recipe must be a Recipe, or lowbit.RECIPES[name], got {self.recipe!r}")


# What reads the last hidden state, and tables of tokens: their errors meet nothing that could even them out.
_HEADS = ("*lm_head", "*classifier*", "*score", "*pooler*")
TABLES = ("*embed*", "wte", "*.wte", "*shared")


@register("lowbit.Plan")
@dataclass(frozen=True)
class Plan:
    """Ordered rules: the first that matches the name of a linear layer or an embedding is its recipe.

    A layer that no rule matches stays in float32. Names are those of `model.named_modules()`.
    """

    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.rules, tuple) or not all(isinstance(rule, Rule) for rule in self.rules):
            raise TypeError(f"rules must be a tuple of Rule, got {self.rules!r}; see Plan.of")
        if not self.rules:
            raise ValueError('a plan must have a rule at least, got none; Plan.default() or Plan.of({"*": "int8"})')

    @classmethod
    def of(cls, recipes: Mapping[str, Recipe | str]) -> Plan:
        """A plan from patterns to recipes, or their names: `Plan.of({"*.query": "int8", "*": "int4"})`."""
        return cls(tuple(Rule(pattern, _recipe(recipe)) for pattern, recipe in recipes.items()))

    @classmethod
    def default(cls, bits: Literal[8, 4, 3, 2] = 8) -> Plan:
        """Linear layers in so many bits; tables of tokens in 8 bits, and what gives scores from hidden states too."""
        if bits not in (8, 4, 3, 2):
            raise ValueError(f"bits must be 8, 4, 3 or 2, got {bits!r}")
        return cls.of(dict.fromkeys((*_HEADS, *TABLES), "int8") | {"*": f"int{bits}"})

    @classmethod
    def ratio(cls, sensitivities: Mapping[str, tuple[float, int]], share: float) -> Plan:
        """A share of the weights in 4 bits, the least sensitive layers first, and the rest in 8 bits.

        `sensitivities` has the error of each layer in 4 bits and its weights, as `lowbit.sensitivities` measures them.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share must be from 0 to 1, got {share!r}")
        if not sensitivities:
            raise ValueError("sensitivities must name a layer at least, got none: lowbit.sensitivities(model)")
        left = share * sum(weights for _error, weights in sensitivities.values())
        chosen = {}
        for name, (_error, weights) in sorted(sensitivities.items(), key=lambda item: (item[1][0], item[0])):
            if weights <= left:
                chosen[name] = "int4"
                left -= weights
        return cls.of({_literal(name): recipe for name, recipe in chosen.items()} | {"*": "int8"})

    def with_solver(self, solver: Nearest | HQQ | GPTQ | Scaled) -> Plan:
        """The same formats, with codes chosen by `solver`; layers that stay in floats stay so."""
        return Plan(tuple(Rule(rule.pattern, rule.recipe.with_solver(solver)) for rule in self.rules))

    def recipes(self, names: Iterable[str]) -> dict[str, Recipe]:
        """The recipe of each layer that a rule matches.

        Raises ValueError where no layer matches, or a rule matches none that would come to it, with the nearest names.
        """
        names = list(names)
        found = {}
        for name in names:
            rule = next((rule for rule in self.rules if fnmatch.fnmatchcase(name, rule.pattern)), None)
            if rule is not None:
                found[name] = rule.recipe
        if not found:
            wanted = ", ".join(repr(rule.pattern) for rule in self.rules)
            raise ValueError(f"the plan must match a layer, but {wanted} match none{_nearest(self.rules, names)}")
        return found


def _nearest(rules: tuple[Rule, ...], names: list[str]) -> str:
    near = dict.fromkeys(name for rule in rules for name in difflib.get_close_matches(rule.pattern, names, 3, 0.3))
    shown = list(near)[:5] or names[:5]
    return f"; layers with weights are, for example, {', '.join(map(repr, shown))}" if shown else ": there are none"


def _recipe(recipe: Recipe | str) -> Recipe:
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            near = difflib.get_close_matches(recipe, RECIPES, 3, 0.3) or list(RECIPES)
            raise ValueError(f"recipe must be one of lowbit.RECIPES, got {recipe!r}; near are {', '.join(near)}")
        return RECIPES[recipe]
    return recipe


def _literal(name: str) -> str:
    """A pattern that matches this name alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
