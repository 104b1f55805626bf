"""What goes wrong and lasts: each trouble is logged when it comes, changes and ends, not at every try.

Invariant: an error's text is never logged, unless it is one of ours and says how to mend it.
"""

from collections.abc import Hashable

import structlog

from ..errors import SchemaError
from ..logs import place_of

_log = structlog.get_logger()


class Troubles:
    """The troubles of one shipper, by what they are about."""

    def __init__(self) -> None:
        self._told: dict[Hashable, str] = {}

    def tell(self, about: Hashable, sentence: str, error: BaseException, **details: str) -> None:
        """Logs the trouble unless it is the same as the last one about this."""
        trouble = str(error) if isinstance(error, SchemaError) else place_of(error.__cause__ or error)
        if self._told.get(about) != trouble:
            self._told[about] = trouble
            _log.warning(sentence, error=trouble, **details)

    def end(self, about: Hashable, sentence: str, **details: str) -> None:
        """Logs the end of a trouble, if there was one."""
        if self._told.pop(about, None) is not None:
            _log.info(sentence, **details)
