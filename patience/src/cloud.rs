//! The clients of the clouds. Left to themselves they make a failed call ten more times, within up to three minutes, and within
//! each call of ours: they are told to make it once.

use std::{sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientConfigKey, Error, ObjectStore, ObjectStoreScheme, Result, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    path::Path,
};
use url::Url;

use crate::Patience;

/// How a client may make calls again, and how long one of its requests may take.
struct Limits {
    retry: RetryConfig,
    request: Duration,
}

impl Patience {
    /// The store that a URL names, asked with this patience, and the place in it. Credentials, region and endpoint come from the
    /// environment, by the names that the clouds' own tools use.
    ///
    /// # Errors
    /// [`Error::NotSupported`] for what is no URL of a cloud, and what a client finds wrong with its settings.
    pub fn open(self, url: &Url) -> Result<(Arc<dyn ObjectStore>, Path)> {
        let (scheme, path) = ObjectStoreScheme::parse(url)?;
        // The calls have their time already: a client's own would cut a large file off.
        let calls = Limits { retry: self.retries(0), request: Duration::from_hours(24 * 30) };
        // Of an upload in parts only the client can send a part again.
        let uploads = Limits { retry: self.retries(self.attempts.saturating_sub(1)), request: self.timeout };
        let calls = client(&scheme, url, calls)?;
        let uploads = client(&scheme, url, uploads)?;
        Ok((self.over_both(url.to_string(), calls, Some(uploads)), path))
    }

    fn retries(self, retries: u32) -> RetryConfig {
        let backoff = BackoffConfig { init_backoff: self.backoff, max_backoff: self.pause(self.attempts), base: 2.0 };
        let retry_timeout = self.timeout.saturating_mul(self.attempts);
        RetryConfig { backoff, max_retries: retries as usize, retry_timeout }
    }
}

fn client(scheme: &ObjectStoreScheme, url: &Url, limits: Limits) -> Result<Arc<dyn ObjectStore>> {
    let Limits { retry, request } = limits;
    let request = format!("{} ms", request.as_millis().max(1));
    Ok(match scheme {
        ObjectStoreScheme::AmazonS3 => {
            let key = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
            let s3 = AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retry);
            Arc::new(s3.with_config(key, request).build()?)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let key = GoogleConfigKey::Client(ClientConfigKey::Timeout);
            let gcs = GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).with_retry(retry);
            Arc::new(gcs.with_config(key, request).build()?)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let key = AzureConfigKey::Client(ClientConfigKey::Timeout);
            let azure = MicrosoftAzureBuilder::from_env().with_url(url.as_str()).with_retry(retry);
            Arc::new(azure.with_config(key, request).build()?)
        }
        _ => {
            let source = format!("`{}` is no scheme of a cloud", url.scheme()).into();
            return Err(Error::NotSupported { source });
        }
    })
}
