package qupath.lib.io

import groovy.json.JsonSlurper
import qupath.lib.objects.PathClass
import qupath.lib.objects.PathObject
import qupath.lib.objects.ROI

class PathIO {
    static List<Integer> sizes = []

    static List<PathObject> readObjectsFromGeoJSON(InputStream stream) {
        def content = new JsonSlurper().parse(stream, "UTF-8")
        assert content.type == "FeatureCollection"
        sizes << content.features.size()
        content.features.collect { feature ->
            assert feature.type == "Feature"
            def found = feature.properties.classification
            new PathObject(
                kind: feature.properties.objectType,
                roi: new ROI(geometry: feature.geometry),
                pathClass: found == null ? null : PathClass.getInstance(found.name, found.color),
                measurements: feature.properties.measurements)
        }
    }
}
