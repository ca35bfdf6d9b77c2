//! [`Exposition`]: writes metrics in Prometheus' text format.

use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use tracing::warn;

/// Metrics in the order in which they are shown.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    families: Vec<MetricFamily>,
}

/// One metric, with a sample for each set of labels.
#[derive(Debug)]
pub(super) struct Family<'e>(&'e mut MetricFamily);

impl Exposition {
    /// A metric that only grows; its name ends in `_total`.
    pub(super) fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(MetricType::COUNTER, name, help)
    }

    /// A metric that goes up and down.
    pub(super) fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(MetricType::GAUGE, name, help)
    }

    fn family(&mut self, kind: MetricType, name: &str, help: &str) -> Family<'_> {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        let index = self.families.len();
        self.families.push(family);
        Family(&mut self.families[index])
    }

    /// Takes over what another collector has made.
    pub(super) fn extend(&mut self, families: Vec<MetricFamily>) {
        self.families.extend(families);
    }

    /// The text; a metric without a sample is left out.
    pub(super) fn into_text(self) -> String {
        let has_samples = |family: &MetricFamily| !family.get_metric().is_empty();
        let families: Vec<MetricFamily> = self.families.into_iter().filter(has_samples).collect();
        TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
            warn!(%error, "metrics cannot be written as text");
            String::new()
        })
    }
}

impl Family<'_> {
    /// Adds the sample of one set of labels. From 2⁵³ on, values lose their last digits.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        let labels = labels.iter().map(|(name, value)| {
            let mut label = LabelPair::default();
            label.set_name((*name).to_owned());
            label.set_value((*value).to_owned());
            label
        });
        let mut metric = Metric::from_label(labels.collect());
        if self.0.get_field_type() == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.0.mut_metric().push(metric);
    }
}
