//! Where a store is, as a person writes it: a folder or a URL.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use flow_patience::Patience;
use object_store::ObjectStore;
#[cfg(feature = "cloud")]
use object_store::prefix::PrefixStore;
use url::Url;

use crate::{
    error::{Error, Result, during},
    plain_folder::PlainFolder,
};

/// A folder, or a bucket of a cloud store with a prefix in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder: `./.flow`, `/data/flow`, `file:///data/flow`.
    Folder(PathBuf),
    /// `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`. Credentials, region and endpoint come
    /// from the environment, by the names that the clouds' own tools use.
    Cloud(Url),
}

impl Location {
    /// Is it a cloud store?
    pub fn is_cloud(&self) -> bool {
        matches!(self, Self::Cloud(_))
    }

    /// Opens it as a store that is asked with patience; what is below the folder or prefix is the store.
    pub(crate) fn objects(&self, patience: Patience) -> Result<Arc<dyn ObjectStore>> {
        match self {
            Self::Folder(folder) => {
                fs_err::create_dir_all(folder).map_err(during(|| "create the folder of a store"))?;
                let objects =
                    PlainFolder::new(folder).map_err(|e| Error::store("open the folder", &self.to_string(), e))?;
                Ok(patience.over(self.to_string(), Arc::new(objects)))
            }
            Self::Cloud(url) => self.cloud(url, patience),
        }
    }

    #[cfg(not(feature = "cloud"))]
    fn cloud(&self, _: &Url, _: Patience) -> Result<Arc<dyn ObjectStore>> {
        Err(Error::NoCloud { text: self.to_string() })
    }

    #[cfg(feature = "cloud")]
    fn cloud(&self, url: &Url, patience: Patience) -> Result<Arc<dyn ObjectStore>> {
        let opened = patience.open(url).map_err(|source| Error::store("open the store", &self.to_string(), source));
        opened.map(|(store, prefix)| Arc::new(PrefixStore::new(store, prefix)) as Arc<dyn ObjectStore>)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Cloud(url) => write!(f, "{url}"),
        }
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |reason: &str| Error::Location { text: text.to_owned(), reason: reason.to_owned() };
        if text.is_empty() {
            return Err(refuse("it is empty"));
        }
        let Some((scheme, _)) = text.split_once("://") else {
            // `s3:bucket` and `s3:/bucket` would otherwise silently become folders of that name.
            if ["s3:", "gs:", "az:", "file:"].iter().any(|prefix| text.starts_with(prefix)) {
                return Err(refuse("after the scheme comes `://`, as in `s3://bucket/prefix`"));
            }
            return Ok(Self::Folder(PathBuf::from(text)));
        };
        let url = Url::parse(text).map_err(|e| refuse(&e.to_string()))?;
        match scheme {
            "file" => {
                url.to_file_path().map(Self::Folder).map_err(|()| refuse("it is no absolute path of this machine"))
            }
            "s3" | "gs" | "az" if url.host_str().is_none_or(str::is_empty) => Err(refuse("it names no bucket")),
            "s3" | "gs" | "az" if url.query().is_some() || url.fragment().is_some() => {
                Err(refuse("a bucket and a prefix, and nothing after `?` or `#`"))
            }
            "s3" | "gs" | "az" if !url.username().is_empty() || url.password().is_some() => {
                Err(refuse("credentials belong into the environment, not into the address"))
            }
            "s3" | "gs" | "az" => Ok(Self::Cloud(url)),
            _ => Err(refuse("known are a folder, `file:///…`, `s3://…`, `gs://…` and `az://…`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        for folder in ["./.flow", ".flow", "/data/flow", "a:b"] {
            assert_eq!(folder.parse::<Location>().unwrap(), Location::Folder(folder.into()));
        }
        assert_eq!("file:///data/flow".parse::<Location>().unwrap(), Location::Folder("/data/flow".into()));
        for cloud in ["s3://bucket/a/b", "gs://bucket/a", "az://container/a"] {
            assert_eq!(cloud.parse::<Location>().unwrap().to_string(), cloud);
        }
    }

    #[test]
    fn what_is_refused() {
        for (text, reason) in [
            ("", "empty"),
            ("s3:bucket", "`://`"),
            ("s3:/bucket", "`://`"),
            ("s3://", "bucket"),
            ("s3:///prefix", "bucket"),
            ("s3://key:secret@bucket/a", "credentials"),
            ("s3://bucket/a?versionId=3", "nothing after"),
            ("ftp://host/a", "known are"),
            ("file://host/a", "this machine"),
        ] {
            let error = text.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[cfg(not(feature = "cloud"))]
    #[test]
    fn a_build_without_clouds_says_so() {
        let error = "s3://bucket/a".parse::<Location>().unwrap().objects(Patience::default()).unwrap_err();
        assert!(error.to_string().contains("feature `cloud`"), "{error}");
    }
}
