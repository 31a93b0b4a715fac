# SPDX-License-Identifier: Apache-2.0
"""Client of quantd, a quantization service.

    import quantd

    with quantd.connect() as client:                       # QUANT_SERVER, QUANT_TOKEN_FILE, QUANT_TLS_CA, …
        model = client.upload_model("model.onnx")
        data = client.upload_dataset("calibration/")
        job = client.submit(model["id"], "static", calibration=data["id"])
        job = client.wait(job["id"], progress=print)
        print(client.report(job["id"])["size"])
        client.download(job["result_model_id"], "quantized/")

Resources are plain dicts, the same as `quantctl --output json` prints. What goes wrong is a quantd.Error. The messages and
stubs themselves are in quantd.v1, for what this package does not wrap.
"""
from .client import Client, connect
from .errors import (ConfigurationError, DataLoss, Error, InvalidRequest, JobFailed, LocalFileError, NotFound,
                     PermissionDenied, Unauthenticated, Unreachable)

__all__ = ["Client", "ConfigurationError", "DataLoss", "Error", "InvalidRequest", "JobFailed", "LocalFileError",
           "NotFound", "PermissionDenied", "Unauthenticated", "Unreachable", "connect"]
