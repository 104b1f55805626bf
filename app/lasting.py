"""uvicorn's server, but one that no clock ends: every HTTP server here is one."""

import uvicorn


class LastingServer(uvicorn.Server):
    """Relies on `on_tick`. Where the clock says what is no date, answers keep the last one; uvicorn would end."""

    async def on_tick(self, counter: int) -> bool:
        try:
            return await super().on_tick(counter)
        except (OSError, OverflowError, ValueError):  # of the date that uvicorn makes once a second
            return self.should_exit
