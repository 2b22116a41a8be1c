//! The operators' guide (docs/guide) tells what the code does.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use engine::DropReason;
use model::{Environment, HostSpec, Name};
use std::path::Path;
use towpathd::config::{Config, Machine};
use towpathd::metrics::FAMILIES;

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands in the blocks of a language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    page.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

/// Cells of the table whose first column is `` `name` ``.
fn rows(page: &str) -> Vec<Vec<String>> {
    page.lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

#[test]
fn every_drop_reason_is_explained_as_the_code_does_and_has_a_remedy() {
    let rows = rows(&page("drops.md"));
    let told: Vec<(&str, &str)> =
        rows.iter().map(|row| (row[0].trim_matches('`'), row[1].as_str())).collect();
    let known: Vec<(&str, String)> =
        DropReason::ALL.iter().map(|reason| (reason.name(), reason.explanation())).collect();
    let known: Vec<(&str, &str)> = known.iter().map(|(name, text)| (*name, text.as_str())).collect();
    assert_eq!(told, known);
    assert!(rows.iter().all(|row| row.len() == 3 && row[2].len() > 10), "a remedy for each");
}

#[test]
fn every_metric_is_listed_as_the_page_names_it() {
    let told = rows(&page("metrics.md"));
    let known: Vec<Vec<String>> = FAMILIES
        .iter()
        .map(|(name, help, counter, labels)| {
            let end = if *counter { "_total" } else { "" };
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            vec![format!("`{name}{end}`"), labels.join(", "), (*help).to_owned()]
        })
        .collect();
    assert_eq!(told, known);
}

#[test]
fn the_example_of_the_daemons_file_is_valid_and_says_everything() {
    let text = blocks(&page("daemon.md"), "yaml").concat();
    let machine = Machine { hostname: "elsewhere".to_owned(), cores: vec![0, 1] };
    let config = Config::read(&text, None, &machine).unwrap();
    assert_eq!((config.host.as_str(), config.workers.cores), ("node-a", vec![0]));
    assert_eq!(config.manifests.unwrap(), Path::new("/etc/towpath/manifests"));
    assert_eq!(config.uplink.unwrap().driver.device(), "eth1");
    for field in ["host:", "cores:", "idle:", "socket:", "listen:", "manifests:", "uplink:", "eal:"] {
        assert!(text.contains(field), "{field}");
    }
}

#[test]
fn the_manifests_are_valid_and_have_every_field() {
    let text = page("manifests.md");
    let own = Some((Name::parse("node-a").unwrap(), HostSpec::default()));
    let environment = Environment { own_host: own };
    let set = model::load_text(&blocks(&text, "yaml").concat(), "manifests.md", &environment).unwrap();
    // What a resource is written out with is what can be written.
    for resource in set.iter().filter(|resource| resource.meta.key.kind != model::Kind::Host) {
        for field in fields(&resource.to_json()) {
            // The uid is the daemon's to give; the label is the example's own.
            let known = field == "uid" || text.contains(&format!("{field}:"));
            assert!(known, "{field} of {} is not in the example", resource.meta.key);
        }
    }
    // The page on groups speaks of the same VPC.
    let groups = blocks(&page("security-groups.md"), "yaml");
    let vpc = "---\nkind: Vpc\nmetadata: {name: blue}\nspec: {vni: 1, cidrs: [10.0.0.0/16]}\n";
    let ops = "---\nkind: SecurityGroup\nmetadata: {name: ops}\nspec: {vpc: blue}\n";
    let all = format!("{}\n{vpc}{ops}", groups.join("---\n"));
    assert_eq!(
        model::load_text(&all, "security-groups.md", &environment).unwrap().security_groups().count(),
        4
    );
    for feature in model::features::FEATURES {
        assert!(text.contains(&format!("`{feature}`")), "{feature}");
    }
}

#[test]
fn the_files_that_are_installed_are_valid() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let text = std::fs::read_to_string(deploy.join("example/towpathd.yaml")).unwrap();
    let machine = Machine { hostname: "elsewhere".to_owned(), cores: vec![0] };
    let config = Config::read(&text, None, &machine).unwrap();
    let environment = Environment { own_host: Some((config.host, HostSpec::default())) };
    let set = model::load_path(&deploy.join("example/manifests"), &environment).unwrap();
    assert_eq!(set.ports().count(), 2);
    // One set of manifests for both hosts.
    let both = deploy.join("example/two-hosts");
    for (host, vtep) in [("node-a", [192, 0, 2, 1]), ("node-b", [192, 0, 2, 2])] {
        let text = std::fs::read_to_string(both.join(format!("{host}.yaml"))).unwrap();
        let config =
            Config::read(&text, None, &Machine { hostname: "elsewhere".to_owned(), cores: vec![0, 1] });
        let own = HostSpec { vteps: vec![vtep.into()], ..HostSpec::default() };
        let environment = Environment { own_host: Some((config.unwrap().host, own)) };
        let set = model::load_path(&both.join("manifests"), &environment).unwrap();
        assert_eq!(set.ports().count(), 2, "{host}");
    }
    let unit = std::fs::read_to_string(deploy.join("towpathd.service")).unwrap();
    let folder = Path::new(api::DEFAULT_SOCKET).parent().unwrap();
    assert!(unit.contains("RuntimeDirectory=towpath\n") && folder == Path::new("/run/towpath"));
}

/// Names of all fields of a JSON tree.
fn fields(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Object(map) => {
            map.iter().flat_map(|(name, value)| std::iter::once(name.clone()).chain(fields(value))).collect()
        }
        serde_json::Value::Array(items) => items.iter().flat_map(fields).collect(),
        _ => Vec::new(),
    }
}
