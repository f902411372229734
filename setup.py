"""Only what pyproject.toml cannot say: where the C core is built from."""

from setuptools import setup

setup(cffi_modules=["native/build_core.py:ffi"])
