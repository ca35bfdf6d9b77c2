//! Merges, as the API server does them.

use serde_json::{Map, Value};

/// Merges `patch` into `target`: `null` removes a member, and the elements of `conditions` are merged
/// by their `type`. All other lists are replaced.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in members {
        match value {
            Value::Null => drop(target.remove(name)),
            Value::Array(conditions) if name == "conditions" => {
                merge_conditions(
                    target.entry(name).or_insert_with(|| Value::Array(Vec::new())),
                    conditions,
                );
            }
            Value::Object(_) => merge(target.entry(name).or_insert(Value::Null), value),
            Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                target.insert(name.clone(), value.clone());
            }
        }
    }
}

fn merge_conditions(target: &mut Value, conditions: &[Value]) {
    let Value::Array(known) = target else { return };
    for condition in conditions {
        match known.iter_mut().find(|it| it["type"] == condition["type"]) {
            Some(known) => merge(known, condition),
            None => known.push(condition.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::merge;

    #[test]
    fn members_are_merged_removed_and_added_and_conditions_by_their_type() {
        let mut node = json!({
            "metadata": { "annotations": { "a": "1", "b": "2" } },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        merge(
            &mut node,
            &json!({
                "metadata": { "annotations": { "a": null, "c": "3" } },
                "status": { "conditions": [
                    { "type": "NetworkUnavailable", "status": "False" },
                    { "type": "Ready", "reason": "x" },
                ] },
            }),
        );
        assert_eq!(
            node,
            json!({
                "metadata": { "annotations": { "b": "2", "c": "3" } },
                "status": { "conditions": [
                    { "type": "Ready", "status": "True", "reason": "x" },
                    { "type": "NetworkUnavailable", "status": "False" },
                ] },
            })
        );
        let mut bare = json!({ "metadata": {} });
        merge(&mut bare, &json!({ "metadata": { "annotations": { "a": "1" } } }));
        assert_eq!(bare, json!({ "metadata": { "annotations": { "a": "1" } } }));
    }
}
