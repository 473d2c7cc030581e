"""YAML as recipes use it: plain values, each key once, and mistakes named by their line."""

from typing import Any

import yaml

from networks.errors import UserError


class _PlainLoader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that stands twice in one section."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    problem = f"the key {key.value!r} stands twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(content: bytes) -> Any:
    """The value in a YAML document. Raises `UserError` with line and column; a tag is such a mistake."""
    try:
        text = content.decode()
        return yaml.load(text, _PlainLoader)
    except UnicodeDecodeError as error:
        raise UserError("", "the file", "YAML in UTF-8", f"Byte {error.start} is not.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = text.splitlines()[mark.line].strip() if mark and mark.line < text.count("\n") + 1 else ""
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise UserError(where, line, "plain YAML", f"{problem[:1].upper()}{problem[1:]}.") from None
    except yaml.YAMLError as error:
        raise UserError("", "the file", "plain YAML", " ".join(str(error).split())) from None
