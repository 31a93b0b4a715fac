#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A client that speaks KEDA's protocol, with stubs made from the proto by protoc and nothing of ours: as KEDA's operator
calls quantd, with the trigger of deploy/kubernetes/keda, over TLS with a client certificate and tokens on."""
import atexit
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

import yaml

from service import EXAMPLE, PATIENCE, TOP, Service, program

sys.path.insert(0, tempfile.mkdtemp(prefix="quant-keda-stubs."))
atexit.register(shutil.rmtree, sys.path[0])
subprocess.run(["protoc", "-I", TOP / "proto" / "externalscaler", "--python_out", sys.path[0],
                TOP / "proto" / "externalscaler" / "externalscaler.proto"], check=True)
import externalscaler_pb2 as pb  # noqa: E402
import grpc  # noqa: E402

SCALED = next(d for d in yaml.safe_load_all((TOP / "deploy/kubernetes/keda/scaledobject.yaml").read_text())
              if d["kind"] == "ScaledObject")


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


class SecureService(Service):
    """With tokens and TLS; quantctl is an operator."""

    def environment(self):
        return {**super().environment(), "QUANT_TLS_CA": str(self.certificates / "ca.pem"), "QUANT_TOKEN": self.operator}


class KedaTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="quant-keda.")
        cls.addClassCleanup(cls.folder.cleanup)
        folder = pathlib.Path(cls.folder.name)
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority", "-keyout",
                folder / "ca.key", "-out", folder / "ca.pem")
        for name, subject in (("server", "/CN=quantd"), ("keda", "/CN=keda"), ("stranger", "/CN=stranger")):
            openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", subject, "-keyout", folder / f"{name}.key", "-out",
                    folder / f"{name}.csr")
            (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
            openssl("x509", "-req", "-in", folder / f"{name}.csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
                    "-CAcreateserial", "-days", "2", "-extfile", folder / "names", "-out", folder / f"{name}.pem")
        tokens = folder / "tokens"

        def token(*args):
            return subprocess.run([program("quantd"), "token", "add", "--tokens", tokens, *args], check=True,
                                  capture_output=True, text=True).stdout.strip()
        operator = token("--name", "operator", "--role", "operator")
        cls.user = token("--name", "ann", "--tenant", "acme")
        (folder / "worker-token").write_text(token("--name", "workers", "--role", "worker"))
        token("--name", "keda", "--role", "scaler", "--certificate", "keda")
        cls.certificates = folder
        cls.service = SecureService(
            workers=0,
            quantd_flags=["--tls-cert", folder / "server.pem", "--tls-key", folder / "server.key", "--tls-ca",
                          folder / "ca.pem", "--tokens", tokens],
            worker_flags=["--tls-ca", folder / "ca.pem", "--token-file", folder / "worker-token"])
        cls.service.certificates, cls.service.operator = folder, operator
        cls.service.start()
        cls.addClassCleanup(cls.service.stop)

    def channel(self, name="keda"):
        """As KEDA connects: the parameters of its TriggerAuthentication."""
        pair = [(self.certificates / f"{name}.{end}").read_bytes() for end in ("key", "pem")] if name else [None, None]
        credentials = grpc.ssl_channel_credentials((self.certificates / "ca.pem").read_bytes(), *pair)
        channel = grpc.secure_channel(self.service.server, credentials)
        self.addCleanup(channel.close)
        return channel

    def call(self, method, request, response, channel=None, metadata=None):
        stub = (channel or self.channel()).unary_unary(f"/externalscaler.ExternalScaler/{method}",
                                                       request_serializer=type(request).SerializeToString,
                                                       response_deserializer=response.FromString)
        return stub(request, timeout=60, metadata=metadata)

    @staticmethod
    def ref(**changes):
        """What KEDA sends of the ScaledObject in deploy/."""
        metadata = {**SCALED["spec"]["triggers"][0]["metadata"], **changes}
        return pb.ScaledObjectRef(name=SCALED["metadata"]["name"], namespace="quantd", scalerMetadata=metadata)

    def metric(self):
        answer = self.call("GetMetrics", pb.GetMetricsRequest(scaledObjectRef=self.ref(), metricName="quantd-jobs"),
                           pb.GetMetricsResponse)
        self.assertEqual([v.metricName for v in answer.metricValues], ["quantd-jobs"])
        return answer.metricValues[0].metricValueFloat

    def active(self):
        return self.call("IsActive", self.ref(), pb.IsActiveResponse).result

    def refused(self, code, *args, **options):
        with self.assertRaises(grpc.RpcError) as raised:
            self.call(*args, **options)
        self.assertEqual(raised.exception.code(), code, raised.exception)

    def test_workers_from_none_to_as_many_as_the_queue_wants_and_back(self):
        spec = self.call("GetMetricSpec", self.ref(), pb.GetMetricSpecResponse).metricSpecs
        self.assertEqual([(s.metricName, s.targetSizeFloat, s.targetSize) for s in spec], [("quantd-jobs", 1.0, 1)])
        wide = self.call("GetMetricSpec", self.ref(slotsPerWorker="4", jobsPerSlot="2"), pb.GetMetricSpecResponse)
        self.assertEqual(wide.metricSpecs[0].targetSizeFloat, 8.0)
        self.assertEqual((self.active(), self.metric()), (False, 0.0))
        stream = self.channel().unary_stream("/externalscaler.ExternalScaler/StreamIsActive",
                                             request_serializer=pb.ScaledObjectRef.SerializeToString,
                                             response_deserializer=pb.IsActiveResponse.FromString)
        told = stream(self.ref(), timeout=300)
        self.assertFalse(next(told).result)

        model = self.service.upload("model", EXAMPLE / "model.onnx")
        jobs = [self.service.submit("--kind", "quantize", "--method", "dynamic", "--model", model) for _ in range(3)]
        self.assertTrue(next(told).result)  # from none to one, without waiting for a poll
        self.assertEqual((self.active(), self.metric()), (True, 3.0))
        worker = self.service.start_worker()  # what KEDA would have Kubernetes do
        for job in jobs:
            self.service.wait_job(job, "SUCCEEDED")
        self.assertFalse(next(told).result)
        self.assertEqual((self.active(), self.metric()), (False, 0.0))
        worker.send(signal.SIGTERM)  # and scaling in
        self.assertEqual(worker.wait(), 0)
        told.cancel()

    def test_it_lets_in_keda_and_operators_alone(self):
        unauthenticated, forbidden = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
        args = ("IsActive", self.ref(), pb.IsActiveResponse)
        self.refused(unauthenticated, *args, channel=self.channel(None))
        self.refused(unauthenticated, *args, channel=self.channel("stranger"))
        plain = self.channel(None)
        self.refused(forbidden, *args, channel=plain, metadata=[("authorization", f"Bearer {self.user}")])
        worker = (self.certificates / "worker-token").read_text()
        self.refused(forbidden, *args, channel=plain, metadata=[("authorization", f"Bearer {worker}")])
        self.call(*args, channel=plain, metadata=[("authorization", f"Bearer {self.service.operator}")])
        # and KEDA's certificate opens nothing else
        listing = self.channel().unary_unary("/quant.v1.JobService/ListJobs")
        with self.assertRaises(grpc.RpcError) as raised:
            listing(b"", timeout=60)
        self.assertEqual(raised.exception.code(), forbidden)

    def test_what_is_wrong_is_said(self):
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        self.refused(invalid, "GetMetricSpec", self.ref(slotPerWorker="2"), pb.GetMetricSpecResponse)
        self.refused(invalid, "GetMetricSpec", self.ref(slotsPerWorker="many"), pb.GetMetricSpecResponse)
        self.refused(invalid, "GetMetrics", pb.GetMetricsRequest(scaledObjectRef=self.ref(), metricName="s0-quantd-jobs"),
                     pb.GetMetricsResponse)
        # which newer versions of KEDA try, and do without
        self.refused(grpc.StatusCode.UNIMPLEMENTED, "StreamMetricSpec", self.ref(), pb.GetMetricSpecResponse)

    def test_a_stream_ends_when_quantd_stops(self):
        service = Service(workers=0).start()
        self.addCleanup(service.stop)
        with grpc.insecure_channel(service.server) as channel:
            told = channel.unary_stream("/externalscaler.ExternalScaler/StreamIsActive",
                                        request_serializer=pb.ScaledObjectRef.SerializeToString,
                                        response_deserializer=pb.IsActiveResponse.FromString)(self.ref(), timeout=300)
            self.assertFalse(next(told).result)
            service.quantd.send(signal.SIGTERM)
            with self.assertRaises(grpc.RpcError) as raised:
                next(told)
            self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(service.quantd.wait(PATIENCE), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
