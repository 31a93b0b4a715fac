# SPDX-License-Identifier: Apache-2.0
"""Messages as plain dicts and back: the JSON that quantctl prints and reads (common/view/json.h). Field names as in the proto,
64-bit integers as int, enum values without their prefix, times as RFC 3339, unset messages left out."""
import math
import re
import struct

from google.protobuf.descriptor import FieldDescriptor

from .errors import InvalidRequest


def short_names(enum):
    """{"STATIC": 3, …} of an enum whose values are called ACT_ORDER_STATIC, …"""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    return {v.name[len(prefix):] if v.name.startswith(prefix) else v.name: v.number for v in enum.values}


def _float(value):
    """The double that is written like the float: 0.01, not 0.009999999776482582."""
    for digits in range(6, 10):
        shorter = float(f"{value:.{digits}g}")
        if struct.pack("f", shorter) == struct.pack("f", value):
            return shorter
    return value


def _time(message):
    fraction = f".{message.nanos:09d}".rstrip("0") if message.nanos else ""
    return message.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S") + fraction + "Z"


def _duration(message):
    fraction = f".{abs(message.nanos):09d}".rstrip("0") if message.nanos else ""
    sign = "-" if message.seconds < 0 or message.nanos < 0 else ""
    return f"{sign}{abs(message.seconds)}{fraction}s"


def _value(field, value):
    if field.message_type is not None:
        return to_dict(value)
    if field.enum_type is not None:
        return next((name for name, number in short_names(field.enum_type).items() if number == value), str(value))
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return _float(value) if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else value
    return value


def to_dict(message):
    """A message as a dict. Scalars are always there, also when zero; messages and members of a oneof only when set."""
    name = message.DESCRIPTOR.full_name
    if name == "google.protobuf.Timestamp":
        return _time(message)
    if name == "google.protobuf.Duration":
        return _duration(message)
    out = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name["value"]
            out[field.name] = {key: _value(entry, value[key]) for key in sorted(value)}
        elif field.label == FieldDescriptor.LABEL_REPEATED:
            out[field.name] = [_value(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            out[field.name] = _value(field, value)
    return out


def enum_number(enum, value, where):
    """The number of an enum's value given as "histogram-mse", "HISTOGRAM_MSE" or with its prefix."""
    names = short_names(enum)
    wanted = str(value).upper().replace("-", "_")
    if wanted in names:
        return names[wanted]
    if wanted in enum.values_by_name:
        return enum.values_by_name[wanted].number
    known = ", ".join(n.lower().replace("_", "-") for n, number in names.items() if number)
    raise InvalidRequest(f"{where} is one of {known}, not '{value}'")


def set_field(message, field, value, where):
    """Sets one field of a message from a plain value."""
    if field.message_type is not None:
        if field.label == FieldDescriptor.LABEL_REPEATED:
            target = getattr(message, field.name)
            for i, item in enumerate(_list(value, where)):
                from_dict(item, target.add(), f"{where}[{i}]")
        else:
            target = getattr(message, field.name)
            target.SetInParent()
            from_dict(value, target, where)
        return
    if field.enum_type is not None:
        value = ([enum_number(field.enum_type, v, where) for v in _list(value, where)]
                 if field.label == FieldDescriptor.LABEL_REPEATED else enum_number(field.enum_type, value, where))
    try:
        if field.label == FieldDescriptor.LABEL_REPEATED:
            getattr(message, field.name).extend(_list(value, where))
        else:
            setattr(message, field.name, value)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{where}: {value!r} does not fit: {error}") from None


def _list(value, where):
    if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__iter__"):
        raise InvalidRequest(f"{where} wants a list, not {value!r}")
    return list(value)


def from_dict(values, message, where=""):
    """Fills a message from a dict as to_dict makes it. Unknown members and two members of one oneof are refused."""
    if not isinstance(values, dict):
        raise InvalidRequest(f"{where or 'the recipe'} wants a dict, not {values!r}")
    chosen = {}
    for name, value in values.items():
        at = f"{where}.{name}" if where else name
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            raise InvalidRequest(f"no member '{name}'{' in ' + where if where else ''}; there are "
                                 + ", ".join(f.name for f in message.DESCRIPTOR.fields))
        if value is None or (field.enum_type is not None and value == "UNSPECIFIED"):
            continue
        oneof = field.containing_oneof
        if oneof is not None and chosen.setdefault(oneof.name, name) != name:
            raise InvalidRequest(f"{at} cannot stand beside {chosen[oneof.name]}: only one {oneof.name} is allowed")
        set_field(message, field, value, at)
    return message
