// SPDX-License-Identifier: Apache-2.0
#include "server/token_command.h"

#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/flags.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "server/auth/credential_file.h"

namespace quant {
namespace {

constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

constexpr char kEpilog[] = R"(Examples:
  quantd token add --tokens /etc/quantd/tokens --name ann --tenant acme --expires 2160h
      Prints the token once, and nothing else on stdout; only its SHA-256 is kept.
  quantd token add --tokens /etc/quantd/tokens --name workers --role worker
  quantd token add --tokens /etc/quantd/tokens --name ci --tenant acme --certificate spiffe://acme/ci
      For callers that show a TLS certificate with that URI (or, without "://", that common name).
  quantd token list --tokens /etc/quantd/tokens
  quantd token revoke --tokens /etc/quantd/tokens ann
      A running quantd refuses it within a second; streams that are open end by themselves.

Roles: user (its tenant's models, datasets and jobs), worker (leases jobs of all tenants), scaler (KEDA: asks how many
jobs there are), operator (everything).
Exit status: 0 done, 1 the file cannot be used or has no such line, 2 wrong usage.)";

struct TokenFlags {
  std::string tokens;
  std::string name;
  std::string tenant = kDefaultTenant;
  std::string role = "user";
  std::string certificate;
  absl::Duration expires;
  FlagSet set{
      "quantd token",
      "quantd token add --tokens FILE --name NAME [flags]\n  quantd token list --tokens FILE\n"
      "  quantd token revoke --tokens FILE NAME|ID\n\n"
      "Who may call a quantd that runs with --tokens FILE: makes a token or admits a certificate, lists them, takes\n"
      "them back. docs/security.md tells the whole."};

  TokenFlags() {
    set.Add("tokens", &tokens, "FILE",
            "The file that quantd --tokens reads; add makes it when it is missing. Required.");
    set.Add("name", &name, "NAME", "add: who it is for, as the audit log will say. 1 to 63 of [a-z0-9._-].");
    set.Add("tenant", &tenant, "NAME", "add: whose models, datasets and jobs it may use. 1 to 63 of [a-z0-9._-].");
    set.Add("role", &role, "user|worker|scaler|operator", "add: what it may do.");
    set.Add("certificate", &certificate, "URI|NAME",
            "add: no token, but a client certificate with this URI or common name.");
    set.Add("expires", &expires, "TIME", "add: how long it is good for, e.g. 2160h. 0: until it is revoked.");
    set.SetEpilog(kEpilog);
  }
};

absl::Status Add(const TokenFlags& flags) {
  Credential credential;
  credential.principal.name = flags.name;
  credential.principal.tenant = flags.tenant;
  RETURN_IF_ERROR(CheckPrincipalName("--name", flags.name));
  RETURN_IF_ERROR(CheckPrincipalName("--tenant", flags.tenant));
  ASSIGN_OR_RETURN(credential.principal.role, ParseRole(flags.role));
  credential.created = absl::Now();
  if (flags.expires > absl::ZeroDuration()) credential.expires = credential.created + flags.expires;
  credential.certificate = flags.certificate;
  std::string token;
  if (flags.certificate.empty()) {
    token = MakeToken(&credential);
  } else {
    credential.id = RandomId("t-");
  }
  RETURN_IF_ERROR(AddCredential(flags.tokens, credential));
  std::cerr << "quantd: added " << credential.id << ", " << flags.role << " " << flags.name << " of tenant "
            << flags.tenant << "\n";
  if (!token.empty()) std::cout << token << std::endl;
  return absl::OkStatus();
}

absl::Status List(const TokenFlags& flags) {
  ASSIGN_OR_RETURN(const std::vector<Credential> all, ReadCredentials(flags.tokens));
  const absl::Time now = absl::Now();
  std::cout << absl::StreamFormat("%-20s %-16s %-12s %-9s %-11s %-12s %-8s %s\n", "ID", "NAME", "TENANT", "ROLE",
                                  "CREATED", "EXPIRES", "STATE", "CERTIFICATE");
  for (const Credential& c : all) {
    const auto day = [](absl::Time time) {
      return time == absl::InfiniteFuture() ? "never" : absl::FormatTime("%Y-%m-%d", time, absl::UTCTimeZone());
    };
    const char* const state = c.revoked ? "revoked" : now >= c.expires ? "expired" : "good";
    std::cout << absl::StreamFormat("%-20s %-16s %-12s %-9s %-11s %-12s %-8s %s\n", c.id, c.principal.name,
                                    c.principal.tenant, std::string(RoleName(c.principal.role)), day(c.created),
                                    day(c.expires), state, c.certificate);
  }
  return absl::OkStatus();
}

int Wrong(const std::string& message) {
  std::cerr << "quantd: " << message << "; quantd token --help tells more\n";
  return kWrongUsage;
}

}  // namespace

int RunTokenCommand(const std::vector<std::string>& args) {
  TokenFlags flags;
  std::vector<std::string> words;
  if (const absl::Status parsed = flags.set.Parse(args, &words); !parsed.ok()) {
    return Wrong(std::string(parsed.message()));
  }
  if (flags.set.help_requested()) {
    std::cout << flags.set.Help();
    return 0;
  }
  const std::string command = words.empty() ? "" : words.front();
  if (command != "add" && command != "list" && command != "revoke") return Wrong("token wants add, list or revoke");
  if (flags.tokens.empty()) return Wrong("--tokens is missing: name the file");
  if (words.size() != (command == "revoke" ? 2U : 1U)) {
    return Wrong(command == "revoke" ? "token revoke wants one NAME or ID" : "too many words");
  }
  absl::Status status;
  if (command == "add") {
    status = Add(flags);
  } else if (command == "list") {
    status = List(flags);
  } else {
    status = RevokeCredential(flags.tokens, words[1]).status();
  }
  if (status.ok()) return 0;
  std::cerr << "quantd: " << status.message() << "\n";
  return absl::IsInvalidArgument(status) && command == "add" ? kWrongUsage : kFailed;
}

}  // namespace quant
