// SPDX-License-Identifier: Apache-2.0
// quantctl model, quantctl dataset and quantctl storage.
#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/command.h"
#include "client/local_files.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/view/json.h"
#include "common/view/proto_fields.h"
#include "quant/v1/artifacts.pb.h"
#include "quant/v1/jobs.pb.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

// The two kinds of manifest differ in names only.
struct ModelKind {
  using Item = v1::Model;
  using CreateRequest = v1::CreateModelRequest;
  static constexpr char kNoun[] = "model";
  static auto Create(Client& client, const CreateRequest& request) { return client.CreateModel(request); }
  // A job's id stands for the model that it made.
  static absl::StatusOr<Item> Get(Client& client, const std::string& id) {
    if (!absl::StartsWith(id, "j-")) return client.GetModel(id);
    ASSIGN_OR_RETURN(const v1::Job job, client.GetJob(id));
    if (job.result_model_id().empty()) {
      return absl::FailedPreconditionError(absl::StrCat("job ", Printable(id), " has made no model: it is ",
                                                        ShortEnumName(*v1::JobState_descriptor(), job.state()),
                                                        "; see quantctl job show ", Printable(id)));
    }
    return client.GetModel(job.result_model_id());
  }
  static auto List(Client& client, int64_t limit, bool* more) { return client.ListModels(limit, more); }
  static auto Delete(Client& client, const std::string& id) { return client.DeleteModel(id); }
  static std::string Format(const Item& item) { return ShortEnumName(*v1::ModelFormat_descriptor(), item.format()); }
  // Told before gigabytes are sent; the server has the last word.
  static absl::Status CheckFiles(const FileSet& set) {
    for (const UploadFile& file : set.files) {
      if (absl::EndsWith(file.path, ".onnx") || file.path == "config.json" || absl::EndsWith(file.path, ".gguf")) {
        return absl::OkStatus();
      }
    }
    return absl::InvalidArgumentError(
        "no model here: a model is a .onnx file, a folder with one and its external data, or a Hugging Face folder "
        "with "
        "config.json and safetensors");
  }
};
struct DatasetKind {
  using Item = v1::Dataset;
  using CreateRequest = v1::CreateDatasetRequest;
  static constexpr char kNoun[] = "dataset";
  static auto Create(Client& client, const CreateRequest& request) { return client.CreateDataset(request); }
  static auto Get(Client& client, const std::string& id) { return client.GetDataset(id); }
  static auto List(Client& client, int64_t limit, bool* more) { return client.ListDatasets(limit, more); }
  static auto Delete(Client& client, const std::string& id) { return client.DeleteDataset(id); }
  static std::string Format(const Item&) { return ""; }
  static absl::Status CheckFiles(const FileSet& set) {
    if (set.files.size() != 1) return absl::OkStatus();
    for (const char* known : {".npy", ".npz", ".safetensors", ".txt"}) {
      if (absl::EndsWithIgnoreCase(set.files[0].path, known)) return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(
        set.files[0].path, " alone is no dataset: give a .npy, .npz, .safetensors or .txt file, or a folder"));
  }
};

// "2026-12-03 14:05" and the like, "pinned", or "" for what is kept until it is deleted. For models, datasets, and
// what SetRetention answers.
template <typename Item>
std::string KeptText(const Item& item) {
  if (item.pinned()) return "pinned";
  return item.has_expire_time() ? HumanTime(FromProto(item.expire_time())) : "";
}

// --expires of a command: a time that CheckTtl of the server takes.
absl::Status CheckExpires(const FlagSet& flags, absl::Duration expires) {
  if (!flags.IsSet("expires") || expires >= absl::Seconds(1)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--expires must be 1s or more, e.g. 24h, not ", absl::FormatDuration(expires)));
}

template <typename Item>
std::string ShowText(const Item& item, const std::string& format) {
  std::string out = absl::StrCat("id       ", Printable(item.id()), "\nname     ", Printable(item.name()));
  if (!format.empty()) absl::StrAppend(&out, "\nformat   ", format);
  absl::StrAppend(&out, "\nsize     ", HumanBytes(item.size_bytes()), " (", item.size_bytes(), " bytes)\ndigest   ",
                  Printable(item.digest()), "\ncreated  ", HumanTime(FromProto(item.create_time())), "\n");
  if (const std::string kept = KeptText(item); !kept.empty()) {
    absl::StrAppend(&out, "expires  ", item.pinned() ? "never, it is pinned" : kept, "\n");
  }
  return out;
}

template <typename Item>
std::string FilesText(const Item& item, int width) {
  using enum Table::Align;
  Table table({{"FILE", kLeft, true}, {"SIZE", kRight}, {"SHA-256", kLeft, true}});
  for (const v1::File& file : item.files()) {
    table.Add({file.path(), HumanBytes(file.digest().size_bytes()), file.digest().sha256()});
  }
  return table.Render(width);
}

// Hashes and uploads what the server lacks, telling how far it is.
absl::Status UploadFiles(Session& session, FileSet& set) {
  InterruptScope interrupt;
  ProgressLine line(session.err(), TerminalWidth(session.err()));
  RateMeter hashing, sending;
  const auto fraction = [](int64_t done, int64_t total) {
    return total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1.0;
  };
  constexpr int64_t kSlowToHash = int64_t{64} << 20;  // less is over before it could be read
  RETURN_IF_ERROR(HashFiles(set, [&](int64_t done) {
    if (set.size_bytes < kSlowToHash) return !InterruptScope::Interrupted();
    line.Update("hashing", fraction(done, set.size_bytes), hashing.Describe(done, set.size_bytes, 0, absl::Now()));
    return !InterruptScope::Interrupted();
  }));
  std::vector<LocalFile> files;
  files.reserve(set.files.size());
  for (const UploadFile& file : set.files) files.push_back(file.local);
  absl::Status status =
      session.client()
          .Uploader([] { return InterruptScope::Interrupted(); })
          .UploadMissing(files, [&](const TransferProgress& at) {
            if (!at.note.empty()) line.Note(at.note);
            line.Update("uploading", fraction(at.done_bytes, at.total_bytes),
                        sending.Describe(at.done_bytes, at.total_bytes, at.skipped_bytes, absl::Now()));
          });
  line.Clear();
  if (InterruptScope::Interrupted()) {
    return absl::CancelledError("stopped; the same command goes on where this one ended");
  }
  return status;
}

template <typename Kind>
class Upload : public Command {
 public:
  using Command::Command;
  void AddFlags(FlagSet& flags) override {
    flags.Add("name", &name_, "NAME", "A name for it; default: that of the file or folder.");
    flags.Add("expires", &expires_, "TIME",
              "How long it is to be kept, e.g. 24h. Default: as the server is set up, mostly until it is deleted.");
  }
  absl::Status Check(const FlagSet& flags, const std::vector<std::string>&) override {
    return CheckExpires(flags, expires_);
  }
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>& arguments) override {
    const fs::path path = arguments[0];
    ASSIGN_OR_RETURN(FileSet set, FindFiles(path));
    RETURN_IF_ERROR(Kind::CheckFiles(set));
    typename Kind::CreateRequest request;
    request.set_name(name_.empty() ? DefaultName(path) : name_);
    if (!IsValidUtf8(request.name())) return absl::InvalidArgumentError("the name is not UTF-8: give --name");
    if (!set.skipped.empty()) {
      constexpr size_t kShown = 5;
      const size_t shown = std::min(kShown, set.skipped.size());
      session.Say(absl::StrCat(
          "not uploaded: ",
          absl::StrJoin(set.skipped.begin(), set.skipped.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
          shown < set.skipped.size() ? absl::StrCat(" and ", set.skipped.size() - shown, " more") : ""));
    }
    if (expires_ > absl::ZeroDuration()) SetProto(expires_, request.mutable_ttl());
    // Whether anybody is there shows before minutes of hashing, and at a prompt's patience.
    RETURN_IF_ERROR(session.client().Ping());
    RETURN_IF_ERROR(UploadFiles(session, set));
    for (const UploadFile& file : set.files) {
      v1::File& out = *request.add_files();
      out.set_path(file.path);
      out.mutable_digest()->set_sha256(file.local.digest.sha256);
      out.mutable_digest()->set_size_bytes(file.local.digest.size_bytes);
    }
    ASSIGN_OR_RETURN(const typename Kind::Item item, Kind::Create(session.client(), request));
    session.PrintResource(
        item.id(), [&] { return MessageToJson(item); },
        [&] {
          return absl::StrCat(Kind::kNoun, " ", Printable(item.id()), "  ", Printable(item.name()), "  ",
                              HumanBytes(item.size_bytes()), ", ", item.files_size(),
                              item.files_size() == 1 ? " file" : " files");
        });
    return kExitDone;
  }

 private:
  // "resnet20" for "models/resnet20.onnx" and "models/resnet20/".
  static std::string DefaultName(const fs::path& path) {
    std::error_code error;
    const fs::path whole = fs::canonical(path, error);
    return (fs::is_directory(whole, error) ? whole.filename() : whole.stem()).string();
  }
  std::string name_;
  absl::Duration expires_;
};

template <typename Kind>
class List : public Command {
 public:
  using Command::Command;
  void AddFlags(FlagSet& flags) override { flags.Add("limit", &limit_, "N", "Show the newest N; 0: all.", 0); }
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>&) override {
    bool more = false;
    ASSIGN_OR_RETURN(const auto items, Kind::List(session.client(), limit_, &more));
    if (session.json()) {
      std::vector<std::string> json;
      json.reserve(items.size());
      for (const auto& item : items) json.push_back(MessageToJson(item));
      session.Print(ListToJson(json));
    } else if (session.form() == OutputForm::kId) {
      for (const auto& item : items) session.Print(Printable(item.id()));
    } else if (items.empty()) {
      session.Say(absl::StrCat("no ", Kind::kNoun, "s yet: quantctl ", Kind::kNoun, " upload PATH"));
    } else {
      using enum Table::Align;
      const bool format = !Kind::Format(items[0]).empty();
      std::vector<Table::Column> columns = {{"ID"}, {"NAME", kLeft, true}};
      if (format) columns.push_back({"FORMAT"});
      columns.insert(columns.end(), {{"SIZE", kRight}, {"FILES", kRight}, {"CREATED"}, {"EXPIRES"}});
      Table table(columns);
      for (const auto& item : items) {
        std::vector<std::string> row = {item.id(), item.name()};
        if (format) row.push_back(Kind::Format(item));
        row.insert(row.end(), {HumanBytes(item.size_bytes()), absl::StrCat(item.files_size()),
                               HumanTime(FromProto(item.create_time())), KeptText(item)});
        table.Add(std::move(row));
      }
      session.Print(table.Render(session.width()));
    }
    if (more) session.Say(absl::StrCat("there are more than ", limit_, ": --limit 0 lists all"));
    return kExitDone;
  }

 private:
  int64_t limit_ = 50;
};

template <typename Kind>
class Show : public Command {
 public:
  using Command::Command;
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>& arguments) override {
    ASSIGN_OR_RETURN(const auto item, Kind::Get(session.client(), arguments[0]));
    session.PrintResource(
        item.id(), [&] { return MessageToJson(item); },
        [&] { return absl::StrCat(ShowText(item, Kind::Format(item)), "\n", FilesText(item, session.width())); });
    return kExitDone;
  }
};

template <typename Kind>
class Delete : public Command {
 public:
  using Command::Command;
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>& arguments) override {
    RETURN_IF_ERROR(Kind::Delete(session.client(), arguments[0]));
    session.PrintResource(
        arguments[0], [&] { return StringsToJson({{"id", arguments[0]}}); },
        [&] { return absl::StrCat(Kind::kNoun, " ", Printable(arguments[0]), " deleted"); });
    return kExitDone;
  }
};

// Pin and unpin are one call.
template <typename Kind, bool kPinned>
class Pin : public Command {
 public:
  using Command::Command;
  void AddFlags(FlagSet& flags) override {
    if constexpr (kPinned) return;
    flags.Add("expires", &expires_, "TIME", "Keep it so long from now, e.g. 24h. Default: as before it was pinned.");
  }
  absl::Status Check(const FlagSet& flags, const std::vector<std::string>&) override {
    return kPinned ? absl::OkStatus() : CheckExpires(flags, expires_);
  }
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>& arguments) override {
    v1::SetRetentionRequest request;
    request.set_id(arguments[0]);
    request.set_pinned(kPinned);
    if (expires_ > absl::ZeroDuration()) SetProto(expires_, request.mutable_ttl());
    // Ids of the other kind would do as well; who names the wrong one is told.
    RETURN_IF_ERROR(Kind::Get(session.client(), arguments[0]).status());
    ASSIGN_OR_RETURN(const v1::SetRetentionResponse kept, session.client().SetRetention(request));
    const std::string until = KeptText(kept);
    session.Print(session.json() ? MessageToJson(kept, {{"id", arguments[0]}})
                                 : absl::StrCat(Kind::kNoun, " ", Printable(arguments[0]), " ",
                                                kPinned         ? "is pinned"
                                                : until.empty() ? "is kept until it is deleted"
                                                                : absl::StrCat("expires ", until)));
    return kExitDone;
  }

 private:
  absl::Duration expires_;
};

class StorageShow : public Command {
 public:
  using Command::Command;
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>&) override {
    ASSIGN_OR_RETURN(const v1::GetStorageResponse storage, session.client().GetStorage());
    if (session.json()) {
      session.Print(MessageToJson(storage));
      return kExitDone;
    }
    std::string out = absl::StrCat("your tenant      ", HumanBytes(storage.tenant_bytes()));
    if (const int64_t limit = storage.tenant_limit_bytes(); limit > 0) {
      absl::StrAppend(&out, " of ", HumanBytes(limit));
    }
    absl::StrAppend(&out, "\n");
    if (storage.has_server()) {
      const v1::ServerStorage& server = storage.server();
      absl::StrAppend(
          &out, "stored           ", HumanBytes(server.blob_bytes()), " in ", server.blobs(),
          server.blobs() == 1 ? " blob" : " blobs", "\nin use           ", HumanBytes(server.named_bytes()),
          "\nreclaimable      ", HumanBytes(std::max<int64_t>(0, server.blob_bytes() - server.named_bytes())),
          "\nlast sweep       ", server.has_sweep_time() ? HumanTime(FromProto(server.sweep_time())) : "none yet");
      if (server.has_sweep_time()) absl::StrAppend(&out, ", ", HumanBytes(server.sweep_bytes()), " reclaimed");
      absl::StrAppend(&out, "\nsince the start  ", HumanBytes(server.reclaimed_bytes()), " reclaimed, ",
                      server.expired(), " models and datasets expired\n");
    }
    session.Print(out);
    return kExitDone;
  }
};

class Download : public Command {
 public:
  using Command::Command;
  void AddFlags(FlagSet& flags) override {
    flags.Add("force", &force_, "", "Replace files in DIR that have other content.");
  }
  absl::StatusOr<int> Run(Session& session, const std::vector<std::string>& arguments) override {
    ASSIGN_OR_RETURN(const v1::Model model, ModelKind::Get(session.client(), arguments[0]));
    const fs::path directory = arguments[1];
    std::error_code error;
    fs::create_directories(directory, error);
    if (error || !fs::is_directory(directory, error)) {
      return absl::FailedPreconditionError(absl::StrCat("cannot make the folder ", directory.string(), ": ",
                                                        error ? error.message() : "a file is in the way"));
    }
    ASSIGN_OR_RETURN(const std::vector<LocalFile> wanted, Plan(model, directory));
    RETURN_IF_ERROR(Fetch(session, wanted));
    session.PrintResource(
        model.id(), [&] { return MessageToJson(model); },
        [&] {
          return absl::StrCat("model ", Printable(model.id()), " is in ", directory.string(), ": ", model.files_size(),
                              model.files_size() == 1 ? " file" : " files", ", ", HumanBytes(model.size_bytes()), ", ",
                              model.files_size() - static_cast<int>(wanted.size()), " there already");
        });
    return kExitDone;
  }

 private:
  // Which files are to be fetched, and to where; refuses before anything is written.
  absl::StatusOr<std::vector<LocalFile>> Plan(const v1::Model& model, const fs::path& directory) const {
    std::vector<LocalFile> wanted;
    std::set<fs::path> places;
    for (const v1::File& file : model.files()) {
      ASSIGN_OR_RETURN(const fs::path place, PlaceBelow(directory, file.path()));
      if (!places.insert(place).second) {
        return absl::DataLossError(absl::StrCat("the model has two files ", Quoted(file.path())));
      }
      const FileDigest digest{file.digest().sha256(), file.digest().size_bytes()};
      std::error_code error;
      const fs::file_status status = fs::symlink_status(place, error);
      if (fs::is_regular_file(status)) {
        const absl::StatusOr<FileDigest> there = DigestFile(place);
        if (there.ok() && there->sha256 == digest.sha256) continue;
      }
      if (fs::exists(status) && !force_) {
        return absl::AlreadyExistsError(
            absl::StrCat(place.string(), " exists with other content: --force replaces it"));
      }
      wanted.push_back({place, digest});
    }
    return wanted;
  }

  static absl::Status Fetch(Session& session, const std::vector<LocalFile>& wanted) {
    InterruptScope interrupt;
    ProgressLine line(session.err(), TerminalWidth(session.err()));
    RateMeter rate;
    absl::Status status =
        session.client()
            .Downloader([] { return InterruptScope::Interrupted(); })
            .DownloadAll(wanted, [&](const TransferProgress& at) {
              if (!at.note.empty()) line.Note(at.note);
              const double fraction =
                  at.total_bytes > 0 ? static_cast<double>(at.done_bytes) / static_cast<double>(at.total_bytes) : 1;
              line.Update("loading", fraction,
                          rate.Describe(at.done_bytes, at.total_bytes, at.skipped_bytes, absl::Now()));
            });
    line.Clear();
    if (InterruptScope::Interrupted()) {
      return absl::CancelledError("stopped; the same command goes on where this one ended");
    }
    return status;
  }

  bool force_ = false;
};

}  // namespace

void AddArtifactCommands(Commands& commands) {
  const auto add = [&](std::unique_ptr<Command> command) { commands.push_back(std::move(command)); };
  add(std::make_unique<Upload<ModelKind>>(
      CommandInfo{"model", "upload", "PATH", "Upload a model: an ONNX file, or a folder.",
                  "PATH is a .onnx file, or a folder with one, or a Hugging Face folder (config.json, safetensors,\n"
                  "tokenizer). A .onnx file given by itself is sent alone: give its folder when the weights are in\n"
                  "files beside it (external data). Hidden files are not sent. Only what the server lacks is sent;\n"
                  "an upload that was cut short goes on where it ended when the same command is run again.\n\n"
                  "Examples:\n"
                  "  quantctl model upload resnet20.onnx\n"
                  "  quantctl model upload ./tinystories-656k --name tiny --expires 24h\n"
                  "  model=$(quantctl model upload net.onnx --output id)\n"}));
  add(std::make_unique<List<ModelKind>>(
      CommandInfo{"model", "list", "", "List models, newest first.", "Example:\n  quantctl model list --limit 10\n"}));
  add(std::make_unique<Show<ModelKind>>(
      CommandInfo{"model", "show", "ID", "Show a model and its files.",
                  "The id of a job stands for the model that it made.\n\n"
                  "Examples:\n"
                  "  quantctl model show m-0a1b2c3d4e5f6g7h\n"
                  "  result=$(quantctl model show j-0a1b2c3d4e5f6g7h --output id)\n"}));
  add(std::make_unique<Download>(
      CommandInfo{"model", "download", "ID DIR", "Download a model's files into a folder.",
                  "ID is a model's, or that of the job that made it. DIR is made when it is not there. Every file\n"
                  "is checked against its SHA-256 and appears only when it is right. Files that are there with the\n"
                  "right content are not fetched; with other content they are refused without --force. A download\n"
                  "that was cut short goes on where it ended when the same command is run again.\n\n"
                  "Examples:\n"
                  "  quantctl model download m-0a1b2c3d4e5f6g7h quantized/\n"
                  "  quantctl model download j-0a1b2c3d4e5f6g7h quantized/\n"}));
  add(std::make_unique<Delete<ModelKind>>(CommandInfo{"model", "delete", "ID",
                                                      "Delete a model that no unfinished job needs.",
                                                      "Example:\n  quantctl model delete m-0a1b2c3d4e5f6g7h\n"}));
  add(std::make_unique<Pin<ModelKind, true>>(CommandInfo{"model", "pin", "ID", "Keep a model from expiring.",
                                                         "Example:\n  quantctl model pin m-0a1b2c3d4e5f6g7h\n"}));
  add(std::make_unique<Pin<ModelKind, false>>(
      CommandInfo{"model", "unpin", "ID", "Let a model expire as before it was pinned, or at another time.",
                  "It is kept for an hour at least, unless --expires says less.\n\n"
                  "Examples:\n"
                  "  quantctl model unpin m-0a1b2c3d4e5f6g7h\n"
                  "  quantctl model unpin m-0a1b2c3d4e5f6g7h --expires 168h\n"}));
  add(std::make_unique<Upload<DatasetKind>>(CommandInfo{
      "dataset", "upload", "PATH", "Upload data for calibration or evaluation: a file, or a folder.",
      "PATH is a .npy, .npz or .safetensors file whose arrays are named after the model's inputs, the\n"
      "first axis being samples (with one named \"labels\" for accuracy); a .txt file for language models;\n"
      "or a folder with such files, with uint8 images and a preprocess.json, or with one sub-folder of\n"
      "JPEG or PNG images per class. Hidden files are not sent. Uploads are resumed as those of models.\n\n"
      "Examples:\n"
      "  quantctl dataset upload cifar10/\n"
      "  quantctl dataset upload stories.txt --name stories\n"}));
  add(std::make_unique<List<DatasetKind>>(
      CommandInfo{"dataset", "list", "", "List datasets, newest first.", "Example:\n  quantctl dataset list\n"}));
  add(std::make_unique<Show<DatasetKind>>(CommandInfo{"dataset", "show", "ID", "Show a dataset and its files.",
                                                      "Example:\n  quantctl dataset show d-0a1b2c3d4e5f6g7h\n"}));
  add(std::make_unique<Delete<DatasetKind>>(CommandInfo{"dataset", "delete", "ID",
                                                        "Delete a dataset that no unfinished job needs.",
                                                        "Example:\n  quantctl dataset delete d-0a1b2c3d4e5f6g7h\n"}));
  add(std::make_unique<Pin<DatasetKind, true>>(CommandInfo{"dataset", "pin", "ID", "Keep a dataset from expiring.",
                                                           "Example:\n  quantctl dataset pin d-0a1b2c3d4e5f6g7h\n"}));
  add(std::make_unique<Pin<DatasetKind, false>>(
      CommandInfo{"dataset", "unpin", "ID", "Let a dataset expire as before it was pinned, or at another time.",
                  "It is kept for an hour at least, unless --expires says less.\n\n"
                  "Example:\n  quantctl dataset unpin d-0a1b2c3d4e5f6g7h --expires 168h\n"}));
  add(std::make_unique<StorageShow>(CommandInfo{
      "storage", "show", "", "Show what is stored: of your tenant, and to operators of the server.",
      "\"in use\" are blobs that models and datasets name; the others are reclaimable: they go when nobody\n"
      "used them for a day.\n\n"
      "Example:\n  quantctl storage show\n"}));
}

}  // namespace quant
