# SPDX-License-Identifier: Apache-2.0
"""Recipes from keyword arguments, dicts and files. A keyword is a flag of `quantctl job submit` with "_" for "-"."""
import difflib
import json
import os

from google.protobuf import text_format

from .errors import InvalidRequest, LocalFileError
from .messages import from_dict, set_field
from .v1 import recipe_pb2

METHODS = ("dynamic", "static", "smoothquant", "rtn", "gptq", "awq", "nf4", "llm_int8", "fp16", "bf16", "mixed", "hqq")
_MEMBER = {"static": "static_int8", "fp16": "half", "bf16": "half"}

# Keywords that are not a field of the method's own message: where they go. "$" is that message; the first path that
# exists counts.
_PATHS = {
    "bits": ("$.grid.bits",),
    "group_size": ("$.grid.group_size",),
    "symmetry": ("$.grid.symmetry", "$.weight_symmetry"),
    "scale_search": ("$.grid.scale_search",),
    "norm": ("$.p",),
    "max_size": ("$.size_bytes",),
    "observer": ("calibration.observer",),
    "percentile": ("calibration.percentile",),
    "averaging_constant": ("calibration.averaging_constant",),
    "bins": ("calibration.bins",),
    "calibration_samples": ("calibration.samples",),
    "calibration_batch": ("calibration.batch_size",),
    "sequence_length": ("calibration.sequence_length",),
    "evaluation_samples": ("evaluation.samples",),
    "evaluation_skip": ("evaluation.skip",),
    "evaluation_batch": ("evaluation.batch_size",),
    "latency_runs": ("evaluation.latency_runs",),
    "throughput_batch": ("evaluation.throughput_batch",),
    "threads": ("evaluation.threads",),
    "skip_error_profile": ("evaluation.skip_error_profile",),
    "format": ("format",),
    "seed": ("seed",),
    "memory": ("memory_bytes",),
}
# Only these find ranges of activations, and so have an observer.
_OBSERVING = ("static", "smoothquant", "mixed", "")
_OBSERVER = ("observer", "percentile", "averaging_constant", "bins")


def read(source):
    """A Recipe from a dict, a Recipe, or the path of a file: JSON when it begins with "{", else protobuf text."""
    recipe = recipe_pb2.Recipe()
    if source is None:
        return recipe
    if isinstance(source, recipe_pb2.Recipe):
        recipe.CopyFrom(source)
        return recipe
    if isinstance(source, dict):
        return from_dict(source, recipe)
    path = os.fspath(source)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeError) as error:
        raise LocalFileError(f"cannot read the recipe {path}: {error}") from None
    try:
        if text.lstrip().startswith("{"):
            return from_dict(json.loads(text), recipe)
        return text_format.Parse(text, recipe)
    except (ValueError, text_format.ParseError, InvalidRequest) as error:
        raise InvalidRequest(f"{path}: {error}") from None


def method_name(recipe):
    """The method of a recipe as users know it, "" without one."""
    member = recipe.WhichOneof("method")
    if member == "half":
        return "bf16" if recipe.half.type == recipe_pb2.HALF_TYPE_BF16 else "fp16"
    return "static" if member == "static_int8" else member or ""


def set_method(recipe, method):
    """Makes `method` the recipe's; another one's options go."""
    if method not in METHODS:
        raise InvalidRequest(f"no method '{method}'; there are {', '.join(METHODS)}")
    if method_name(recipe) == method:
        return
    member = getattr(recipe, _MEMBER.get(method, method))
    recipe.ClearField("half")
    member.SetInParent()
    if method in ("fp16", "bf16"):
        recipe.half.type = recipe_pb2.HALF_TYPE_FP16 if method == "fp16" else recipe_pb2.HALF_TYPE_BF16


def _resolve(recipe, path):
    """(message, field) that a path names, or None where there is no such field. Makes nothing."""
    *parents, last = path.split(".")
    descriptor = recipe.DESCRIPTOR
    for name in parents:
        field = descriptor.fields_by_name.get(name)
        if field is None or field.message_type is None:
            return None
        descriptor = field.message_type
    if last not in descriptor.fields_by_name:
        return None
    message = recipe
    for name in parents:
        message = getattr(message, name)
    return message, descriptor.fields_by_name[last]


def options_of(method):
    """The keywords that belong to a method, sorted."""
    recipe = recipe_pb2.Recipe()
    member = ""
    names = {"skip"}
    if method:
        set_method(recipe, method)
        member = recipe.WhichOneof("method")
        renamed = {"grid", "p", "weight_symmetry", "type", "size_bytes"}
        names |= {f.name for f in getattr(recipe, member).DESCRIPTOR.fields} - renamed
    for name, paths in _PATHS.items():
        if any(("$" not in p or member) and _resolve(recipe, p.replace("$", member)) for p in paths):
            names.add(name)
    return sorted(names if method in _OBSERVING else names.difference(_OBSERVER))


def apply(recipe, options):
    """Sets what keyword arguments say; they override what the recipe has, `skip` adds to its rules."""
    method = method_name(recipe)
    member = recipe.WhichOneof("method")
    for name, value in options.items():
        if value is None:
            continue
        if name == "skip":
            for glob in [value] if isinstance(value, str) else value:
                recipe.rules.add(name=glob, skip=True)
            continue
        if name == "candidates" and method == "mixed":
            del recipe.mixed.candidates[:]
            recipe.mixed.candidates.extend(read(v) for v in value)
            continue
        place = None
        for path in _PATHS.get(name, ("$." + name,)):
            if "$" not in path or member:
                place = place or _resolve(recipe, path.replace("$", member or ""))
        if place is None or name not in options_of(method):
            near = difflib.get_close_matches(name, options_of(method), 1)
            raise InvalidRequest(f"no option '{name}' of {'method ' + method if method else 'a job without a method'}"
                                 + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(options_of(method))}"))
        message, field = place
        message.ClearField(field.name)
        set_field(message, field, value, name)
    if options.get("percentile") is not None and not recipe.calibration.observer:
        recipe.calibration.observer = recipe_pb2.OBSERVER_PERCENTILE
    return recipe
