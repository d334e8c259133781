declare global {
  // Express' types are extended by merging.
  namespace Express {
    /** Fields of the request's log line. The layer that knows a field sets it. */
    interface Request {
      /** The number of the image that the request concerns, also where the image is refused. */
      imageId?: number | undefined;
      /** The numbers, of a request for several images. */
      imageIds?: readonly number[];
    }

    interface Response {
      /** Names the request in its response and in the logs. */
      requestId?: string;
      /** The code of the error in the response, for the metrics. */
      errorCode?: string;
    }
  }
}

export {};
