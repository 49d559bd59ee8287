# SPDX-License-Identifier: Apache-2.0
class error(Exception): ...  # noqa: N801, N818 - the library's name

class Options:
    log_errors: bool

class _Match: ...

class _Regexp:
    def search(self, text: str) -> _Match | None: ...

def compile(pattern: str, options: Options = ...) -> _Regexp: ...  # noqa: A001
