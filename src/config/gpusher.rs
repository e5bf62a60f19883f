//! `[gpusher]`: what gpusher's callers say, in this gateway's words.

use super::{Config, GpusherConfig, reader::SectionReader, tables::fits_nsq};

/// A tag of gpusher's, and the app that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagApp {
    /// What callers say; with nsqd a topic, too: 1–64 of `[.a-zA-Z0-9_-]`.
    pub tag: String,
    /// What clients join as.
    pub app: String,
}

impl GpusherConfig {
    /// The app of a tag; `None`: there is no such tag.
    pub fn app_of(&self, tag: &str) -> Option<&str> {
        self.tags.iter().find(|known| known.tag == tag).map(|known| known.app.as_str())
    }
}

pub(super) fn read(r: &mut SectionReader<'_>) -> GpusherConfig {
    let s = "gpusher";
    let right = "a tag, or tag:app; a tag has 1 to 64 of a-z, A-Z, 0-9, '.', '-' and '_'";
    let tags = r.each(s, "tags", right, |text| {
        let (tag, app) = text.split_once(':').map_or((text, text), |(tag, app)| (tag.trim(), app.trim()));
        let is_tag = (1..=64).contains(&tag.len()) && tag.chars().all(fits_nsq);
        (is_tag && !app.is_empty()).then(|| TagApp { tag: tag.to_owned(), app: app.to_owned() })
    });
    GpusherConfig { tags, username: r.text(s, "username"), password: r.secret(s, "password") }
}

/// What is wrong only beside another key.
pub(super) fn together(r: &mut SectionReader<'_>, config: &Config) {
    let GpusherConfig { tags, username, password } = &config.gpusher;
    if username.is_empty() != password.expose().is_empty() {
        r.reject("gpusher", "password", "username and password go together");
    }
    let topic = &config.queue.topic;
    for (nth, TagApp { tag, app }) in tags.iter().enumerate() {
        if tags[..nth].iter().any(|other| other.tag == *tag) {
            r.reject("gpusher", "tags", format!("{tag} stands there twice"));
        }
        if tag == topic || tag.strip_prefix(topic.as_str()).is_some_and(|rest| rest.starts_with('.')) {
            let what = format!(
                "{tag} is a topic of the gateway's own ([queue] topic = {topic}): give the tag, or that, another name"
            );
            r.reject("gpusher", "tags", what);
        }
        if app.len() > config.push.max_name {
            r.reject("gpusher", "tags", format!("{app:?} is longer than [push] max_name: no client can join as it"));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::load;

    fn with(values: &[(&str, &str)]) -> Result<super::Config, super::super::ConfigError> {
        load(None, values.iter().map(|(name, value)| (format!("OXIPUSH__GPUSHER__{name}"), (*value).to_owned())))
    }

    #[test]
    fn a_tag_is_an_app_of_its_own_name_or_of_another() {
        let config = with(&[("TAGS", "app_gpusher, app_tv : tv")]).unwrap();
        let gpusher = &config.gpusher;
        assert_eq!((gpusher.app_of("app_gpusher"), gpusher.app_of("app_tv")), (Some("app_gpusher"), Some("tv")));
        assert_eq!(gpusher.app_of("tv"), None);
        assert_eq!(config.queue.tag_topics, ["app_gpusher", "app_tv"]);
    }

    #[test]
    fn what_cannot_be_a_tag_is_refused() {
        for (values, told) in [
            (&[("TAGS", "app x")][..], "[gpusher] tags: \"app x\" is not a tag"),
            (&[("TAGS", "a:")], "\"a:\" is not a tag"),
            (&[("TAGS", "a, b, a:c")], "a stands there twice"),
            (&[("TAGS", "gopusher")], "gopusher is a topic of the gateway's own"),
            (&[("TAGS", "gopusher.live")], "gopusher.live is a topic of the gateway's own"),
            (&[("USERNAME", "web")], "username and password go together"),
        ] {
            let error = with(values).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        assert!(with(&[("TAGS", "gopusher2"), ("USERNAME", "web"), ("PASSWORD", "hush")]).is_ok());
    }
}
