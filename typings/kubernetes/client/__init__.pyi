class Configuration:
    host: str
    retries: bool | int | None
    connection_pool_maxsize: int
    proxy: str | None
    def __init__(self) -> None: ...
    def get_api_key_with_prefix(self, identifier: str, alias: str | None = None) -> str | None: ...
