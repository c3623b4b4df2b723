//! Service and domain of a workload: what Compose, Kubernetes or the image say.

use std::collections::BTreeMap;

const COMPOSE_PROJECT: &str = "com.docker.compose.project";
const COMPOSE_SERVICE: &str = "com.docker.compose.service";
/// Labels that kubelet gives to a pod's sandbox and containers.
pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The part of a Deployment's pod names between the two last dashes.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// The Job that a pod is of.
const JOB: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// Service and domain of a container: what Compose or Kubernetes say in its labels, else the image's own name, else its own.
#[must_use]
pub fn service_of(labels: &BTreeMap<String, String>, image: &str, name: &str) -> (String, String) {
    let pod = None;
    Names {
        labels,
        image,
        name,
        pod,
    }
    .service()
}

/// What names the service of a workload.
#[derive(Debug)]
pub(crate) struct Names<'a> {
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) image: &'a str,
    pub(crate) name: &'a str,
    /// Name and namespace of the pod, where the runtime knows it by more than labels.
    pub(crate) pod: Option<(&'a str, &'a str)>,
}

impl Names<'_> {
    /// Service and domain: what Kubernetes or Compose say, else the image's own name.
    pub(crate) fn service(&self) -> (String, String) {
        let label = |key: &str| self.labels.get(key).filter(|value| !value.is_empty());
        let labelled = || {
            let namespace = label(POD_NAMESPACE).map_or("", String::as_str);
            Some((label(POD_NAME)?.as_str(), namespace))
        };
        let pod = self.pod.filter(|(name, _)| !name.is_empty());
        if let Some((pod, namespace)) = pod.or_else(labelled) {
            return (pod_service(pod, self.labels).to_owned(), namespace.to_owned());
        }
        if let Some(service) = label(COMPOSE_SERVICE) {
            let project = label(COMPOSE_PROJECT).cloned().unwrap_or_default();
            return (service.clone(), project);
        }
        let service = image_base(self.image).unwrap_or(self.name);
        (service.to_owned(), String::new())
    }
}

/// Last part of an image name, without registry, tag and digest; `None` for a bare image id.
fn image_base(image: &str) -> Option<&str> {
    if image.starts_with("sha256:") {
        return None;
    }
    let name = image.split('@').next()?;
    let base = name.rsplit('/').next()?;
    let base = base.split(':').next()?;
    let is_id = base.len() >= 12 && !name.contains(['/', ':']) && base.bytes().all(|b| b.is_ascii_hexdigit());
    (!base.is_empty() && !is_id).then_some(base)
}

/// What made a pod. Its labels say it of a Deployment and of a Job; else its name tells: `web-6d4cf56db6-x7k2p`
/// (Deployment) and `web-x7k2p` (`DaemonSet`) and `web-0` (`StatefulSet`) are of `web`.
fn pod_service<'a>(pod: &'a str, labels: &'a BTreeMap<String, String>) -> &'a str {
    let label = |key: &str| labels.get(key).filter(|value| !value.is_empty());
    if let Some(hash) = label(TEMPLATE_HASH) {
        let owner = pod
            .rsplit_once('-')
            .and_then(|(rest, _)| rest.strip_suffix(hash.as_str())?.strip_suffix('-'));
        if let Some(owner) = owner.filter(|owner| !owner.is_empty()) {
            return owner;
        }
    }
    if let Some(job) = JOB.iter().find_map(|key| label(key)) {
        return cron_job(job);
    }
    let Some((rest, last)) = pod.rsplit_once('-') else {
        return pod;
    };
    if !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()) {
        return rest;
    }
    if last.len() != 5 || !random(last) {
        return pod;
    }
    match rest.rsplit_once('-') {
        Some((owner, hash)) if (8..=10).contains(&hash.len()) && random(hash) => owner,
        _ => cron_job(rest),
    }
}

/// A CronJob's Jobs end in the minute that they are of, counted from 1970.
fn cron_job(job: &str) -> &str {
    match job.rsplit_once('-') {
        Some((owner, minute)) if minute.len() == 8 && minute.bytes().all(|b| b.is_ascii_digit()) => owner,
        _ => job,
    }
}

/// Kubernetes makes its random parts of these only (`apimachinery/pkg/util/rand`).
fn random(text: &str) -> bool {
    text.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        owned.collect()
    }

    #[test]
    fn image_names_give_services() {
        for (image, base) in [
            ("web", Some("web")),
            ("test/web:1", Some("web")),
            ("registry.local:5000/team/web:1.2@sha256:00", Some("web")),
            ("registry.local:5000/web", Some("web")),
            ("sha256:0123456789abcdef", None),
            ("0123456789ab", None),
            ("", None),
        ] {
            assert_eq!(image_base(image), base, "{image}");
        }
    }

    #[test]
    fn pod_names_give_services() {
        for (pod, service) in [
            ("web-6d4cf56db6-x7k2p", "web"),
            ("node-exporter-x7k2p", "node-exporter"),
            ("db-0", "db"),
            ("db-12", "db"),
            ("web", "web"),
            ("my-app", "my-app"),
            ("front-admin", "front-admin"),
            ("backup-28391040-x7k2p", "backup"),
        ] {
            assert_eq!(pod_service(pod, &labels(&[])), service, "{pod}");
        }
    }

    #[test]
    fn labels_of_kubernetes_tell_the_owner_where_the_name_could_mislead() {
        // The template's hash may have any length, and the owner's name may look like one.
        let deployment = labels(&[("pod-template-hash", "7f9c")]);
        assert_eq!(
            pod_service("api-bcdfghjk-7f9c-x7k2p", &deployment),
            "api-bcdfghjk"
        );
        let job = labels(&[("batch.kubernetes.io/job-name", "backup-28391040")]);
        assert_eq!(pod_service("backup-28391040-x7k2p", &job), "backup");
        let job = labels(&[("job-name", "migrate-2")]);
        assert_eq!(pod_service("migrate-2-x7k2p", &job), "migrate-2");
        // A label that does not fit the name is not believed.
        let other = labels(&[("pod-template-hash", "zzzz")]);
        assert_eq!(pod_service("db-0", &other), "db");
    }

    #[test]
    fn compose_and_kubernetes_labels_come_before_the_image() {
        let compose = labels(&[(COMPOSE_PROJECT, "shop"), (COMPOSE_SERVICE, "front")]);
        assert_eq!(
            service_of(&compose, "web:1", "c"),
            ("front".into(), "shop".into())
        );
        let pod = labels(&[(POD_NAME, "cart-6d4cf56db6-x7k2p"), (POD_NAMESPACE, "prod")]);
        assert_eq!(service_of(&pod, "web:1", "c"), ("cart".into(), "prod".into()));
        assert_eq!(
            service_of(&labels(&[]), "test/web:1", "c"),
            ("web".into(), String::new())
        );
        assert_eq!(
            service_of(&labels(&[]), "sha256:00", "c"),
            ("c".into(), String::new())
        );
        let named = Names {
            labels: &labels(&[]),
            image: "pause:1",
            name: "c",
            pod: Some(("db-0", "prod")),
        };
        assert_eq!(named.service(), ("db".into(), "prod".into()));
    }
}
