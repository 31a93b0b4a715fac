// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/view/html.h"
#include "common/view/human.h"
#include "common/view/tuning_view.h"
#include "quant/v1/report.pb.h"

namespace quant {
namespace {

// The picture, in its own units; it is scaled to its column, and the type with it.
constexpr double kWidth = 560, kHeight = 360, kLeft = 84, kRight = 16, kTop = 16, kBottom = 56;
constexpr double kRadius = 6;
// What loses more than this many times what was accepted (or what the chosen one loses) stands at the upper edge.
constexpr double kFarOff = 4;

struct Point {
  int number = 0;
  double x = 0;  // bytes or milliseconds
  double y = 0;  // loss
  bool front = false;
  bool chosen = false;
};

// A range of values that is `pixels` long from `start`.
struct Axis {
  double low = 0, high = 1, start = 0, pixels = 1;
  double operator()(double value) const { return start + pixels * (std::clamp(value, low, high) - low) / (high - low); }
};

// Round values on the axis, at most some `count`: multiples of 1, 2 or 5 times a power of ten, in units of `unit`.
std::vector<double> Ticks(const Axis& axis, double unit, int count) {
  const double raw = (axis.high - axis.low) / unit / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  const double step = unit * power * (raw <= power ? 1 : raw <= 2 * power ? 2 : raw <= 5 * power ? 5 : 10);
  std::vector<double> ticks;
  for (double value = std::ceil(axis.low / step) * step; value <= axis.high && ticks.size() < 20; value += step) {
    ticks.push_back(std::abs(value) < step / 1e6 ? 0 : value);
  }
  return ticks;
}

// The largest of bytes, KiB, MiB, … that is not above `bytes`, so that round numbers of it are round when they are
// shown.
double ByteUnit(double bytes) {
  double unit = 1;
  while (unit * 1024 <= bytes && unit < 1e15) unit *= 1024;
  return unit;
}

std::string Line(const char* css, double x1, double y1, double x2, double y2) {
  return absl::StrFormat(R"(<line class="%s" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>)", css, x1, y1, x2, y2);
}

std::string Label(const char* anchor, double x, double y, const std::string& text) {
  return absl::StrFormat(R"(<text text-anchor="%s" x="%.1f" y="%.1f">%s</text>)", anchor, x, y, HtmlEscape(text));
}

std::vector<Point> PointsOf(const v1::Tuning& tuning, bool by_latency) {
  std::vector<Point> points;
  for (int i = 0; i < tuning.trials_size(); ++i) {
    const v1::Trial& trial = tuning.trials(i);
    const double x =
        by_latency ? trial.latency().quantized().p50_ms() : static_cast<double>(trial.size().quantized_bytes());
    if (!trial.error().empty() || !(x > 0) || !std::isfinite(x) || !std::isfinite(trial.drop())) continue;
    points.push_back({i + 1, x, trial.drop(), trial.pareto(), trial.chosen()});
  }
  return points;
}

Axis AxisX(const std::vector<Point>& points) {
  const auto [least, most] =
      std::minmax_element(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.x < b.x; });
  const double margin = std::max(0.08 * (most->x - least->x), 0.02 * most->x);
  return {std::max(0.0, least->x - margin), most->x + margin, kLeft, kWidth - kLeft - kRight};
}

Axis AxisY(const std::vector<Point>& points, double accepted) {
  double low = 0, near = std::max(accepted, 1e-9);
  for (const Point& point : points) {
    low = std::min(low, point.y);
    if (point.chosen) near = std::max(near, point.y);
  }
  double high = near;
  for (const Point& point : points) {
    if (point.y <= kFarOff * near) high = std::max(high, point.y);
  }
  const double margin = 0.12 * (high - low);
  return {low < 0 ? low - margin : 0, high + margin, kHeight - kBottom, -(kHeight - kTop - kBottom)};
}

// A stair: what is to the right of a point and above it is beaten by it.
std::string Front(std::vector<Point> points, const Axis& x, const Axis& y) {
  std::erase_if(points, [](const Point& point) { return !point.front; });
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.x < b.x; });
  std::string path;
  for (size_t i = 0; i < points.size(); ++i) {
    if (i == 0) {
      absl::StrAppendFormat(&path, "M%.1f %.1f", x(points[i].x), y(points[i].y));
    } else {
      absl::StrAppendFormat(&path, "H%.1fV%.1f", x(points[i].x), y(points[i].y));
    }
  }
  return points.size() < 2 ? "" : absl::StrCat(R"(<path class="front" d=")", path, R"("/>)");
}

std::string Mark(const Point& point, const Axis& x, const Axis& y) {
  const double cx = x(point.x), cy = y(point.y);
  const char* const css = point.chosen ? "chosen" : point.front ? "on" : "off";
  if (point.y > y.high) {
    return absl::StrFormat(R"(<path class="%s" d="M%.1f %.1fl%g %gh%gz"/>)", css, cx, cy - kRadius, kRadius,
                           2 * kRadius, -2 * kRadius);
  }
  return absl::StrFormat(R"(<circle class="%s" cx="%.1f" cy="%.1f" r="%g"/>)", css, cx, cy,
                         point.chosen ? kRadius + 2 : kRadius);
}

// A number for each point, beside it where there is room left by the marks and the numbers before.
std::string Numbers(const std::vector<Point>& points, const Axis& x, const Axis& y) {
  constexpr double kDigit = 10, kHalf = 8;  // of the type
  struct Box {
    double x, y, width;  // centre of the text
  };
  std::vector<Box> taken;
  taken.reserve(2 * points.size());
  for (const Point& point : points) taken.push_back({x(point.x), y(point.y), 2 * kRadius});
  std::string out;
  for (const Point& point : points) {
    const std::string text = absl::StrCat(point.number);
    const double width = kDigit * static_cast<double>(text.size());
    Box best{};
    double most = -1;  // the room around the best place
    for (const double far : {1.0, 2.0}) {
      for (const auto& [right, down] : {std::pair(1, -1), {1, 1}, {-1, -1}, {-1, 1}, {0, -1}, {0, 1}}) {
        const Box box{x(point.x) + right * (kRadius + 2 + width / 2) * far, y(point.y) + down * (kRadius + 6) * far,
                      width};
        if (box.x - width / 2 < kLeft || box.x + width / 2 > kWidth || box.y < kTop || box.y > kHeight - kBottom + 6)
          continue;
        double room = 1;
        for (const Box& other : taken) {
          room = std::min(room, std::max(std::abs(box.x - other.x) / ((box.width + other.width) / 2 + 1),
                                         std::abs(box.y - other.y) / (2 * kHalf - 2)));
        }
        if (room > most + 1e-9) {
          most = room;
          best = box;
        }
      }
      if (most >= 1) break;
    }
    taken.push_back(best);
    out += Label("middle", best.x, best.y + 6, text);
  }
  return out;
}

}  // namespace

std::string ParetoPlot(const v1::Tuning& tuning) {
  const bool by_latency = tuning.objective() == v1::TUNE_OBJECTIVE_LATENCY;
  const std::vector<Point> points = PointsOf(tuning, by_latency);
  if (points.size() < 2) return "";
  const bool points_of_top1 = MetricOf(tuning).starts_with("top1");
  const Axis x = AxisX(points), y = AxisY(points, std::isfinite(tuning.max_drop()) ? tuning.max_drop() : 0);
  const double bottom = kHeight - kBottom;

  std::string out = absl::StrFormat(
      R"(<svg class="scatter" viewBox="0 0 %g %g" role="img" aria-label="loss against %s of every candidate">)", kWidth,
      kHeight, by_latency ? "latency" : "size");
  for (const double value : Ticks(y, points_of_top1 ? 1 : 0.01, 5)) {
    out += Line("grid", kLeft, y(value), kWidth - kRight, y(value));
    out += Label("end", kLeft - 8, y(value) + 5, Significant(points_of_top1 ? value : 100 * value));
  }
  for (const double value : Ticks(x, by_latency ? 1 : ByteUnit(x.high), 4)) {
    out += Line("grid", x(value), kTop, x(value), bottom);
    out += Label("middle", x(value), bottom + 20,
                 by_latency ? Significant(value) : HumanBytes(static_cast<int64_t>(std::min(value, 9e18))));
  }
  out +=
      Label("middle", (kLeft + kWidth - kRight) / 2, kHeight - 8, by_latency ? "median latency, ms" : "size on disk");
  out += absl::StrFormat(R"svg(<text text-anchor="middle" transform="translate(18 %.1f) rotate(-90)">%s</text>)svg",
                         (kTop + bottom) / 2, points_of_top1 ? "loss, points of top-1" : "loss, %");
  if (tuning.max_drop() <= y.high) {
    out += Line("limit", kLeft, y(tuning.max_drop()), kWidth - kRight, y(tuning.max_drop()));
  }
  out += Front(points, x, y);
  for (const Point& point : points) {
    if (!point.chosen) out += Mark(point, x, y);
  }
  for (const Point& point : points) {
    if (point.chosen) out += Mark(point, x, y);
  }
  out += Numbers(points, x, y);
  return out + "</svg>\n";
}

}  // namespace quant
