import urllib3
from kubernetes.client import Configuration

class RESTClientObject:
    pool_manager: urllib3.PoolManager
    def __init__(self, configuration: Configuration) -> None: ...
